//! `backstitch run tree`: a run and the runs below it.

use backstitch_client::views::RunView;
use serde::Serialize;

use super::context::Context;
use super::exit::{CliError, CliResult};
use super::output::{cell, foreign, status};

/// Runs that are shown: a tree may be wider than anybody reads.
const RUNS_SHOWN_MAX: usize = 1_000;

/// A run of the tree.
#[derive(Debug, Serialize)]
struct Node {
    /// Runs above it.
    depth: u32,
    #[serde(flatten)]
    run: RunView,
}

#[derive(Debug, Serialize)]
struct Tree {
    /// Each before its children, which follow it in the order of their starts.
    runs: Vec<Node>,
    /// Whether there are more.
    cut: bool,
}

pub(super) async fn tree(id: &str, context: &Context) -> CliResult {
    let failed = |error| CliError::client(&format!("show the tree of {id}"), error);
    let root = context.client.run(id).await.map_err(failed)?.run;
    let mut left = vec![Node { depth: 0, run: root }];
    let mut tree = Tree { runs: Vec::new(), cut: false };
    while let Some(node) = left.pop() {
        if tree.runs.len() == RUNS_SHOWN_MAX {
            tree.cut = true;
            break;
        }
        let children = context.client.children(&node.run.run_id.to_string()).await.map_err(failed)?;
        let depth = node.depth + 1;
        left.extend(children.into_iter().rev().map(|run| Node { depth, run }));
        tree.runs.push(node);
    }
    context.out.answer(&tree, || {
        let row = |Node { depth, run }: &Node| {
            let indent = "  ".repeat(*depth as usize);
            [
                foreign(&format!("{indent}{}", run.workflow_id)),
                foreign(&run.workflow),
                status(run.status),
                cell(run.run_id),
            ]
        };
        context.out.table(["WORKFLOW ID", "WORKFLOW", "STATUS", "RUN"], tree.runs.iter().map(row).collect())
    })?;
    if tree.cut {
        context.out.note(&format!("there are more: only {RUNS_SHOWN_MAX} runs are shown"));
    }
    Ok(())
}
