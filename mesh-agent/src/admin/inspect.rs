//! Routes of what is looked into more closely than in a list: the choice of endpoints, everything held, the last refusals,
//! the kernel, and the filter of the log.

use std::path::Path;
use std::sync::Arc;

use mesh_telemetry::api::path;
use mesh_telemetry::http::{Response, Routes};
use mesh_telemetry::logs;

use super::{Admin, bpf, config, endpoints, refused};

/// Adds them.
pub(super) fn routes(routes: Routes, admin: &Arc<Admin>) -> Routes {
    let (choices, dump, refusals, maps, entries, talkers) =
        (admin.clone(), admin.clone(), admin.clone(), admin.clone(), admin.clone(), admin.clone());
    let routes = routes
        .get(path::ENDPOINTS, move |request| {
            let admin = choices.clone();
            async move { endpoints::answer(&admin.lowered.load(), &admin.node, request.query.as_deref()) }
        })
        .get(path::CONFIG, move |_| {
            let admin = dump.clone();
            async move { Response::json(&config::dump(&admin)) }
        })
        .get(path::REFUSALS, move |request| {
            let admin = refusals.clone();
            async move { refused::answer(admin.connections.refusals(), &admin.node, request.query.as_deref()) }
        })
        .get(path::TALKERS, move |_| {
            let admin = talkers.clone();
            blocking(move || {
                admin.connections.count_bytes();
                admin.direct.count();
                Response::json(&admin.metrics.talkers())
            })
        })
        .get(path::BPF, move |_| {
            let admin = maps.clone();
            blocking(move || Response::json(&bpf::summary(&admin.bpffs)))
        })
        .get(path::BPF_ENTRIES, move |request| {
            let admin = entries.clone();
            blocking(move || bpf::entries_of(Path::new(&admin.bpffs), request.query.as_deref()))
        });
    logs::routes(routes)
}

/// A system call for each entry of a map is nothing that connections should wait for.
async fn blocking(answer: impl FnOnce() -> Response + Send + 'static) -> Response {
    let answered = tokio::task::spawn_blocking(answer).await;
    answered.unwrap_or_else(|_| Response::unavailable("the agent is about to stop"))
}
