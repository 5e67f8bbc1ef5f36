//! Every code of a problem document, with what to do about it: where `help` leads.
//!
//! Codes are a contract with programs: add to them, never rename. The list is held against the code by a test
//! that reads the sources.

/// A code and what to do about it.
pub(super) const CODES: &[(&str, &str)] = &[
    ("already-answered", "The call was answered otherwise at the same time: look at its run."),
    ("body-timeout", "Send the body without long pauses."),
    ("body-too-large", "Send less: a payload holds at most 2 MiB."),
    ("component-too-large", "A component has at most 64 MiB."),
    ("core-module", "Make a component of the module: `backstitch build`."),
    ("database-unavailable", "Send the same request again when Postgres is back."),
    ("deployments-busy", "Send the same request again in a while: the host is at work on other components."),
    ("describe-failed", "The component breaks down when it is asked what it offers: look at `detail`."),
    ("does-not-load", "The component cannot be compiled or linked here: look at `detail`."),
    ("empty-body", "Send the component's bytes as the body."),
    ("failure-too-large", "Shorten the message or the details of the failure."),
    ("forbidden-host", "Address the host by a loopback name, or start it with `--listen`."),
    ("forbidden-origin", "Web pages of other origins have no access."),
    ("heartbeat-too-large", "Send fewer details with a heartbeat."),
    ("host-not-ready", "Send the same request again: the host is stopping, or registers anew."),
    ("idempotency-key-reused", "Use a new key for a new start; repeat a start with the very same body."),
    ("inbox-full", "Send the same request again when the run has read what waits for it."),
    ("incomplete-body", "The connection broke while the body came in: send it again."),
    ("internal", "A mistake of the host: its log has more under the number in `instance`."),
    ("invalid", "The component is not valid WebAssembly: look at `detail`."),
    ("invalid-backfill", "Mend the period: `detail` says what is wrong with it."),
    ("invalid-body", "Mend the body: `detail` says where it is wrong."),
    ("invalid-cron", "Write five fields, such as `0 9 * * 1`."),
    ("invalid-cursor", "Pass `next_cursor` of a page of the same listing."),
    ("invalid-filter", "Mend the condition: `detail` says where it is wrong."),
    ("invalid-header", "Send the header once, as one line of ASCII."),
    ("invalid-idempotency-key", "Send one key of 1 to 200 visible ASCII characters."),
    ("invalid-last-event-id", "Send the id of an event of this stream, or none."),
    ("invalid-limit", "Ask for 1 to 1,000."),
    ("invalid-manifest", "Mend the manifest: `detail` lists all that is wrong with it."),
    ("invalid-name", "Choose another name: `detail` says what is wrong with this one."),
    ("invalid-options", "Mend the terms: `detail` says which are out of bounds."),
    ("invalid-path", "Write the path in UTF-8, with numbers where it has numbers."),
    ("invalid-policy", "Mend the schedule's policy: `detail` says what is wrong with it."),
    ("invalid-poll", "Mend the poll: `detail` says what is out of bounds."),
    ("invalid-query", "Mend the parameters: `detail` says which is wrong."),
    ("invalid-quota", "Mend the bounds: `detail` says what they may be."),
    ("invalid-start", "Mend what the schedule starts: `detail` says what is wrong with it."),
    ("invalid-times", "Mend the schedule's times: `detail` says what is wrong with them."),
    ("invalid-token", "Show the token as the poll gave it."),
    ("later-run-open", "Reset the latest run of the workflow id, or fork this one."),
    (
        "ledger-damaged",
        "The ledger is not what was written: `detail` says where. `backstitch run repair` goes on before that.",
    ),
    ("ledger-sound", "Nothing is wrong with the ledger: reset the run instead."),
    ("manifest-of-workflow", "Deploy a workflow without a manifest: it reaches nothing but its host."),
    ("method-not-allowed", "Use a method that the `allow` header lists."),
    ("missing-exports", "Export a workflow or activities, as `backstitch build` does."),
    ("nested-components", "Link the component's parts into one component of core modules."),
    ("no-room", "Ask again when the host has less to do."),
    ("no-such-payload", "Name a row that has a payload: the ledger lists them."),
    ("no-such-row", "Name a row of the ledger that is not its last of all."),
    ("not-a-component", "Upload the component that `backstitch build` writes."),
    ("not-parked", "Only a parked run is retried."),
    ("not-paused", "Only a paused run is resumed."),
    ("not-ready", "Send requests to another host until this one is ready: `detail` says what it waits for."),
    ("not-stopped", "The run has not stopped in time: send the same request again."),
    ("nothing-offered", "Export at least one workflow or activity."),
    ("overloaded", "Send the same request again in a second."),
    ("payload-too-large", "Send less: `detail` says how much it may be."),
    ("query-failed", "The workflow refuses the question: look at `detail`."),
    ("query-faulted", "The workflow breaks down over the question: look at `detail`."),
    ("run-closed", "The run has an end, and takes nothing any more."),
    ("run-diverged", "The run's component does not repeat its ledger: look at `detail`."),
    ("run-faulted", "The run's workflow breaks down on the way: look at `detail`."),
    ("run-parked", "Retry or terminate the run first."),
    ("schedule-busy", "Send the same request again: others change the schedule all the time."),
    ("schedule-changed", "Read the schedule again, and change what it is now."),
    ("schedule-exists", "Choose another name, or replace the schedule."),
    ("schedule-full", "Wait until some of what was asked for has run."),
    ("stale-token", "Put the task away: somebody else has it, or it was answered otherwise."),
    ("storage-full", "Keep payloads below 256 KiB, or have an operator raise what the tenant may store."),
    ("task-given-up", "Put the task away: nobody waits for it any more."),
    ("timeout", "Send the same request again under the same id: it may have taken effect."),
    ("too-costly", "Make the component's functions smaller: it takes too long to look at."),
    ("too-large", "Make the component smaller: `detail` says what there is too much of."),
    ("too-many-answers", "Settle at most 1,000 tasks in one request."),
    ("truncated", "Upload the whole file."),
    ("unknown-activity", "The run does not wait for this call: look at it."),
    ("unknown-imports", "The component asks for what none gets: reach the world through activities."),
    ("unknown-query", "Ask for one that `detail` lists."),
    ("unknown-route", "Look the route up in the reference."),
    ("unknown-run", "`backstitch run list` shows what there is."),
    ("unknown-schedule", "`backstitch schedule list` shows what there is."),
    ("unknown-tenant", "Leave the header away, or set it to `default`."),
    ("unknown-time-zone", "Write a name such as `Europe/Berlin`."),
    ("unknown-workflow", "Deploy a component that offers it, or mend the name."),
    ("unsupported-media-type", "Send JSON as application/json, components as application/wasm."),
    ("update-refused", "The workflow refuses the update: look at `detail`."),
    ("update-unanswered", "The run closed before it answered."),
    ("workflow-id-taken", "Choose another workflow id, or repeat the start exactly."),
    ("wrong-kind", "Give a workflow component."),
];

/// Where a code is explained: a place of the reference that the host itself serves.
pub(super) fn help(code: &str) -> String {
    format!("/v1/reference#problem-{code}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Words of the sources that have the shape of a code and are something else: names of headers, of points
    /// where a host may be killed, of outcomes in a ledger.
    const NO_CODES: [&str; 13] = [
        "b-c",
        "backstitch-manifest",
        "content-type",
        "given-up",
        "idempotency-key",
        "if-none-match",
        "last-event-id",
        "no-cache",
        "retry-after",
        "schedule-decided",
        "schedule-done",
        "schedule-noted",
        "x-accel-buffering",
    ];

    /// The sources whose problems leave the host. No recursion: folders are on the list.
    fn sources() -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut rest: Vec<_> = ["src/service.rs", "src/service", "src/api", "../engine/src/quota.rs"]
            .iter()
            .map(|path| root.join(path))
            .collect();
        let mut texts = Vec::new();
        while let Some(path) = rest.pop() {
            if path.is_dir() {
                rest.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if !path.ends_with("codes.rs") {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
        texts
    }

    /// String literals of lower-case words with hyphens between them.
    fn literals(text: &str) -> impl Iterator<Item = &str> {
        let is_code = |word: &&str| {
            let word = word.split('-').map(str::as_bytes).collect::<Vec<_>>();
            word.len() > 1
                && word.iter().all(|part| !part.is_empty() && part.iter().all(u8::is_ascii_lowercase))
        };
        text.split('"').filter(is_code)
    }

    #[test]
    fn every_code_of_the_sources_is_explained() {
        let listed: BTreeSet<&str> = CODES.iter().map(|(code, _)| *code).collect();
        assert_eq!(listed.len(), CODES.len(), "a code is listed twice");
        assert!(CODES.is_sorted_by_key(|(code, _)| *code));
        let texts = sources();
        let found: BTreeSet<&str> = texts.iter().flat_map(|text| literals(text)).collect();
        for code in &found {
            assert!(listed.contains(code) || NO_CODES.contains(code), "{code} is not explained");
        }
        for word in NO_CODES {
            assert!(found.contains(word), "{word} is no word of the sources any more");
        }
    }
}
