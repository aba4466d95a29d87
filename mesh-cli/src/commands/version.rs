//! `meshctl version`: meshctl's own version, and that of whom it asks.

use mesh_telemetry::api::path;
use serde_json::{Value, json};

use super::{Answer, Context, Failure, complaint};
use crate::args::VersionArgs;
use crate::render::fields::Fields;

const OWN: &str = env!("CARGO_PKG_VERSION");

pub(super) fn run(context: &Context, args: &VersionArgs) -> Result<Answer, Failure> {
    let mut versions = json!({"client": {"version": OWN}});
    let mut fields = Fields::default();
    fields.field("Client", OWN);
    let mut failed = None;
    if !args.client {
        match context.client.get(path::STATUS) {
            Ok(status) => {
                let (key, name) = match status.get("agents") {
                    Some(_) => ("controller", "Controller"),
                    None => ("agent", "Agent"),
                };
                let version = status.get("version").cloned().unwrap_or(Value::Null);
                fields.field(name, version.as_str().unwrap_or("unknown"));
                versions[key] = json!({"version": version});
            }
            // The half that is known is worth printing.
            Err(error) => {
                versions["agent"] = Value::Null;
                failed = Some(Failure::from(error));
            }
        }
    }
    Ok(Answer {
        stdout: context.one(&versions, || fields.render(context.style)),
        note: failed.as_ref().map(complaint).unwrap_or_default(),
        exit_code: failed.as_ref().map_or(0, Failure::exit_code),
    })
}
