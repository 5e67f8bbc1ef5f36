//! Components: taken in, stored, and what serves which name.

use std::collections::BTreeMap;
use std::sync::Arc;

use backstitch_core::command::DEFAULT_TASK_QUEUE;
use backstitch_core::{Digest, Scope, date};
use backstitch_ledger::{ComponentKind as Offers, Deployment, NewComponent};
use backstitch_sandbox::{ComponentKind, Described, Manifest};
use backstitch_wire::views::{DeployedView, DeploymentView, NameView};

use super::error::{ServiceError, internal, unfit, unloadable};
use super::state::Service;
use super::views::shown;

impl Service {
    /// Admits, compiles and stores a component, and lets it serve the names it describes. Its activities
    /// may reach nothing.
    pub async fn deploy(&self, scope: Scope, bytes: Vec<u8>) -> Result<DeployedView, ServiceError> {
        self.deploy_with(scope, bytes, None).await
    }

    /// The same, with a manifest that says what its activities may reach, as JSON text. It stands for
    /// the component until its next deployment.
    pub async fn deploy_with(
        &self,
        scope: Scope,
        bytes: Vec<u8>,
        manifest: Option<&str>,
    ) -> Result<DeployedView, ServiceError> {
        let policy = manifest.map(Manifest::parse).transpose();
        let policy = policy.map_err(|error| unfit("invalid-manifest", error.to_string()))?.map(Arc::new);
        let bytes: Arc<[u8]> = bytes.into();
        let taken = self.programs.sandbox().take_in(Arc::clone(&bytes)).await.map_err(unloadable)?;
        let (digest, kind) = (taken.digest, taken.program.kind());
        if kind == ComponentKind::Workflow && policy.is_some() {
            let message = "a workflow reaches nothing but its host: deploy it without a manifest";
            return Err(unfit("manifest-of-workflow", message.to_owned()));
        }
        let described = taken.program.described().map_err(|fault| {
            unfit("describe-failed", format!("the component does not say what it offers: {fault}"))
        })?;
        if described.is_empty() {
            let message = format!("the component offers no {kind} at all; export at least one");
            return Err(unfit("nothing-offered", message));
        }
        if kind == ComponentKind::Activity {
            self.ledger.put_manifest(scope, digest, manifest, self.clock.now_ms()).await?;
        }
        let created = self.store(scope, kind, digest, &bytes, described).await?;
        self.programs.refresh().await?;
        // Calls that waited for a component may go on at once.
        self.notifier.deployed();
        let warnings = match policy {
            Some(policy) => self.programs.sandbox().obstacles(policy).await,
            None => Vec::new(),
        };
        Ok(DeployedView {
            warnings,
            digest,
            kind: kind.as_str().to_owned(),
            bytes: bytes.len() as u64,
            created,
            names: described
                .iter()
                .map(|described| NameView {
                    task_queue: queue_of(kind, described),
                    name: described.name.clone(),
                })
                .collect(),
        })
    }

    async fn store(
        &self,
        scope: Scope,
        kind: ComponentKind,
        digest: Digest,
        bytes: &[u8],
        described: &[Described],
    ) -> Result<bool, ServiceError> {
        let offers = match kind {
            ComponentKind::Workflow => Offers::Workflows,
            ComponentKind::Activity => Offers::Activities,
        };
        let names: Vec<&str> = described.iter().map(|described| described.name.as_str()).collect();
        let names_json = serde_json::to_string(&names).map_err(|error| internal(&error))?;
        let now_ms = self.clock.now_ms();
        let new = NewComponent { digest, kind: offers, bytes, names: &names_json, created_ms: now_ms };
        let created = self.patient.put_component(scope, new).await?;
        let mut queues: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for described in described {
            let queue = queue_of(kind, described).unwrap_or_default();
            queues.entry(queue).or_default().push(&described.name);
        }
        for (queue, names) in queues {
            self.ledger.deploy(scope, offers, &queue, &names, digest, now_ms).await?;
        }
        Ok(created)
    }

    /// What serves which name now.
    pub async fn deployments(&self, scope: Scope) -> Result<Vec<DeploymentView>, ServiceError> {
        let deployments = self.ledger.deployments(scope).await?;
        let manifests: BTreeMap<Digest, String> = self.ledger.manifests(scope).await?.into_iter().collect();
        let view = |deployment: Deployment| DeploymentView {
            manifest: manifests.get(&deployment.digest).map(String::as_str).and_then(shown),
            kind: match deployment.kind {
                Offers::Workflows => ComponentKind::Workflow.as_str(),
                Offers::Activities => ComponentKind::Activity.as_str(),
            }
            .to_owned(),
            name: NameView {
                name: deployment.name,
                task_queue: (deployment.kind == Offers::Activities).then_some(deployment.task_queue),
            },
            digest: deployment.digest,
            deployed_at: date::rfc3339(deployment.deployed_ms),
        };
        Ok(deployments.into_iter().map(view).collect())
    }
}

fn queue_of(kind: ComponentKind, described: &Described) -> Option<String> {
    match kind {
        ComponentKind::Workflow => None,
        ComponentKind::Activity => {
            Some(described.task_queue.clone().unwrap_or_else(|| DEFAULT_TASK_QUEUE.to_owned()))
        }
    }
}
