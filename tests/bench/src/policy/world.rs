//! The full world: pods of other nodes, and policies about them and about the server.
//!
//! ```text
//!   of 1,000   989 about one application each of the other nodes' pods; some have to do with the client's namespace
//!               10 about the server; half of them admit the client
//!                1 about the server, written last: refuses the client at a port that nobody uses
//! ```

use std::fmt::Write as _;

use crate::control::shape::Shape;
use crate::stage::{CLOSE_PORT, ECHO_PORT, MESH_NAMESPACE};

/// Policies about the server, without the last.
pub const ABOUT_SERVER: u32 = 10;
/// The port at which the last policy refuses the client.
pub const LAST_PORT: u16 = 7999;
/// The file of the last policy.
pub const LAST_FILE: &str = "policy-last.yaml";
/// Policies of a file.
const PER_FILE: u32 = 50;
/// Label `app` of the server.
const SERVER: &str = "near";

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub struct FullWorld {
    /// Pods of other nodes.
    pub workloads: u32,
    /// Policies, the last among them.
    pub policies: u32,
}

impl FullWorld {
    /// All files but the last, by name.
    pub fn files(self) -> impl Iterator<Item = (String, String)> {
        // One pod of the shape is the one that changes, which has no part in this.
        let shape = Shape::of(self.workloads + 1);
        let elsewhere = self.policies - ABOUT_SERVER - 1;
        let of_file = move |file: u32| {
            let numbers = file * PER_FILE..elsewhere.min((file + 1) * PER_FILE);
            let text: String = numbers.map(|number| about_others(number, shape.services())).collect();
            (format!("policies-{file:03}.yaml"), text)
        };
        let server: String = (0..ABOUT_SERVER).map(about_server).collect();
        let policies = (0..elsewhere.div_ceil(PER_FILE)).map(of_file);
        shape.files().chain(policies).chain([("policies-server.yaml".to_owned(), server)])
    }

    /// The policy that is written last.
    pub fn last() -> String {
        let sources = "{serviceAccount: {name: default}}";
        policy(MESH_NAMESPACE, "last", "DENY", &pods(SERVER), sources, &LAST_PORT.to_string())
    }
}

/// Applications that there are more policies than have several.
fn about_others(number: u32, services: u32) -> String {
    let (namespace, app) = Shape::service(number % services);
    let (friends, friend) = Shape::service((number + 1) % services);
    let account = format!("{{serviceAccount: {{namespace: {friends}, name: {friend}}}}}");
    let (action, target, sources, ports) = match number % 10 {
        0 => (
            "ALLOW",
            pods(&app),
            format!("{account}, {{namespace: {MESH_NAMESPACE}}}"),
            "8080, \"9000-9099\"",
        ),
        1 => ("DENY", pods(&app), format!("{{namespace: {MESH_NAMESPACE}}}"), "9090"),
        2 => ("ALLOW", format!("{{kind: Service, name: {app}}}"), account, "8080"),
        3 => ("ALLOW", pods(&app), "{ipBlock: {cidr: 10.0.0.0/16}}".to_owned(), "8080"),
        4 => ("ALLOW", pods(&app), format!("{account}, {{namespace: {friends}}}"), "8080, 9090"),
        _ => ("ALLOW", pods(&app), account, "8080"),
    };
    policy(&namespace, &format!("policy-{number:04}"), action, &target, &sources, ports)
}

fn about_server(number: u32) -> String {
    let (friends, friend) = Shape::service(number);
    let account = format!("{{serviceAccount: {{namespace: {friends}, name: {friend}}}}}");
    let (client, used) =
        ("{serviceAccount: {name: default}}", format!("{ECHO_PORT}, {CLOSE_PORT}, {LAST_PORT}"));
    let name = format!("server-{number}");
    let of = |action, sources: &str, ports: &str| {
        policy(MESH_NAMESPACE, &name, action, &pods(SERVER), sources, ports)
    };
    match number {
        1 => of("DENY", &account, &used),
        even if even % 2 == 0 => of("ALLOW", &format!("{client}, {account}"), &used),
        odd => of("ALLOW", &account, &format!("{}, \"9000-90{odd}9\"", 8080 + odd)),
    }
}

fn pods(app: &str) -> String {
    format!("{{kind: Pod, selector: {{matchLabels: {{app: {app}}}}}}}")
}

fn policy(namespace: &str, name: &str, action: &str, target: &str, sources: &str, ports: &str) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "---\napiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}, generation: 1}}\n\
         spec:\n  targetRefs: [{target}]\n  action: {action}\n  \
         rules: [{{sources: [{sources}], networkAttributes: {{ports: [{ports}]}}}}]\n"
    );
    text
}

#[cfg(test)]
mod tests;
