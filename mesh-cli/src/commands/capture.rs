//! `meshctl capture`: puts the label on, or takes it off.

use std::fmt;

use super::{Answer, Context, Failure};
use crate::args::{CaptureArgs, CaptureVerb, Target};

pub(super) fn run(context: &Context, args: &CaptureArgs) -> Result<Answer, Failure> {
    let cluster = context.cluster.open()?;
    match &args.verb {
        CaptureVerb::Enable { target, force } => {
            let before = cluster.cuts(None)?;
            let cuts: Vec<String> = cluster
                .cuts(Some(target))?
                .iter()
                .filter(|cut| !before.contains(cut))
                .map(ToString::to_string)
                .collect();
            if !cuts.is_empty() && !force {
                let note =
                    format!("{target} is not labelled (--force does it all the same):\n{}", cuts.join("\n"));
                return Ok(Answer { stdout: render(context, target, false, &cuts), note, exit_code: 1 });
            }
            cluster.label(target, Some("enabled"))?;
            let note = if cuts.is_empty() { String::new() } else { format!("warning: {}", cuts.join("; ")) };
            Ok(Answer { stdout: render(context, target, true, &cuts), note, exit_code: 0 })
        }
        CaptureVerb::Disable { target } => {
            // A namespace without the label is out; a pod needs the word, for its namespace may be in.
            cluster.label(target, target.pod.as_ref().map(|_| "disabled"))?;
            Ok(Answer::yes(render(context, target, true, &[])))
        }
    }
}

fn render(context: &Context, target: &Target, labelled: bool, cuts: &[String]) -> String {
    let value = serde_json::json!({"target": target.to_string(), "labelled": labelled, "conflicts": cuts});
    context.one(&value, || if labelled { format!("{target} labelled\n") } else { String::new() })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "pod/{pod} in {}", self.namespace),
            None => write!(f, "namespace/{}", self.namespace),
        }
    }
}
