//! MeshConfig: what it says at the start, what of it is followed live, and the condition `Accepted` on it.
//!
//! Agents' settings go with the world, by way of the index. Here is what concerns the controller itself: the trust domain
//! (at the start: identities are made of it), the lifetime of certificates and the form of log lines (live).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{ApiResource, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use mesh_crd::MeshConfig;
use mesh_crd::mesh_config::MeshConfigStatus;
use mesh_model::TrustDomain;
use mesh_telemetry::logs;
use mesh_telemetry::readiness::Condition as Readiness;
use serde_json::json;
use tokio::sync::watch;

use super::board::SeenMeshConfig;
use super::said::{Trouble, is_absent, is_conflict};
use super::strict::{self, Dialled};
use super::{MANAGER, Reconcile};
use crate::cluster;
use crate::publish::Bare;
use crate::watch::kubernetes::Seen;

const RESOURCE: &str = "meshconfigs.weft.dev";
const STATUS: &str = "meshconfigs.weft.dev/status";
/// After a failure this long, then twice as long, up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// How often it is looked whom `mtls: Strict` cuts.
const LOOK: Duration = Duration::from_secs(30);

/// What is needed before anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtStart {
    /// Where it is set and good.
    pub trust_domain: Option<TrustDomain>,
    /// Likewise.
    pub lifetime: Option<Duration>,
}

/// Reads the MeshConfig once, however long the API server lets us wait.
pub async fn at_start(client: &Client, waiting: &Readiness) -> AtStart {
    let api: Api<Seen> = Api::all_with(client.clone(), &ApiResource::erase::<MeshConfig>(&()));
    let mut wait = SHORTEST;
    let mut said = None;
    loop {
        // Listed, not got: its absence is no error then, and no verb more is needed.
        let error = match api.list(&ListParams::default()).await {
            Ok(all) => {
                let is_default = |one: &Seen| one.meta.name.as_deref() == Some(mesh_crd::MESH_CONFIG);
                let default = all.items.into_iter().find(is_default);
                let config = default.and_then(|one| serde_json::from_value(one.value).ok());
                return config.as_ref().map(read).unwrap_or_default();
            }
            Err(error) => error,
        };
        let text = cluster::explain("list", RESOURCE, &error);
        if said.as_ref() != Some(&text) {
            tracing::warn!("{text}; trying again");
            waiting.lost(text.clone());
            said = Some(text);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}

fn read(config: &MeshConfig) -> AtStart {
    let trust_domain = config.spec.trust_domain.as_deref().and_then(|domain| match TrustDomain::new(domain) {
        Ok(domain) => Some(domain),
        Err(error) => {
            tracing::error!(%error, "MeshConfig {}: spec.trustDomain does not count", mesh_crd::MESH_CONFIG);
            None
        }
    });
    AtStart { trust_domain, lifetime: config.certificate_lifetime().ok().flatten() }
}

/// Follows the MeshConfig until shutdown.
pub(super) async fn keep(shared: Reconcile, mut leader: watch::Receiver<bool>) {
    let api: Api<MeshConfig> = Api::all(shared.client.clone());
    let mut changes = shared.board.changes();
    let mut trouble = Trouble::default();
    let mut cuts = Cuts::default();
    loop {
        let (whole, configs) = {
            let state = shared.board.state();
            (state.is_whole("MeshConfig"), state.mesh_configs.clone())
        };
        if whole {
            let default = configs.get(mesh_crd::MESH_CONFIG);
            let own = default.map(|seen| seen.own).unwrap_or_default();
            shared.issuer.set_lifetime(own.lifetime.unwrap_or(shared.lifetime));
            logs::set_format(own.log_format.unwrap_or(shared.log_format));
        }
        let mut well = true;
        if *leader.borrow_and_update() {
            let generation = configs.get(mesh_crd::MESH_CONFIG).and_then(|seen| seen.generation);
            cuts.look(&shared, generation).await;
            for (name, seen) in &configs {
                let cut = (name == mesh_crd::MESH_CONFIG).then(|| cuts.sentence(seen.is_strict)).flatten();
                well &= say(&api, name, seen, cut.as_deref(), &shared, &mut trouble).await;
            }
        }
        tokio::select! {
            changed = changes.changed(), if well => if changed.is_err() { return },
            changed = leader.changed(), if well => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)), if !well => {}
            () = tokio::time::sleep(LOOK), if well => {}
            () = shared.shutdown.wait() => return,
        }
    }
}

/// What strict would cut, as of a while ago.
#[derive(Debug, Default)]
struct Cuts {
    dialled: Dialled,
    bare: Bare,
    /// When, and for which generation of the MeshConfig.
    looked: Option<(Instant, Option<i64>)>,
    trouble: Trouble,
}

impl Cuts {
    async fn look(&mut self, shared: &Reconcile, generation: Option<i64>) {
        let is_fresh = |(at, of): (Instant, Option<i64>)| of == generation && at.elapsed() < LOOK;
        if self.looked.is_some_and(is_fresh) {
            return;
        }
        self.looked = Some((Instant::now(), generation));
        self.bare = shared.hub.bare();
        match Dialled::list(&shared.client).await {
            Ok(dialled) => {
                self.dialled = dialled;
                self.trouble.over();
            }
            // What was known stays said.
            Err((resource, error)) => self.trouble.said("list", resource, &error, &shared.metrics),
        }
    }

    fn sentence(&self, is_strict: bool) -> Option<String> {
        strict::sentence(&self.bare, &self.dialled, is_strict)
    }
}

/// Writes the condition, if it is not what stands there.
async fn say(
    api: &Api<MeshConfig>,
    name: &str,
    seen: &SeenMeshConfig,
    cut: Option<&str>,
    shared: &Reconcile,
    trouble: &mut Trouble,
) -> bool {
    let wanted = status(seen, cut, shared.board.trust_domain(), Timestamp::now());
    if wanted == seen.status {
        return true;
    }
    let object = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": { "name": name },
        "status": wanted,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api.patch_status(name, &params, &Patch::Apply(object)).await {
        Ok(_) => {
            tracing::info!(
                name,
                accepted = wanted.conditions.first().map(|c| c.status.as_str()),
                "MeshConfig"
            );
            trouble.over();
            true
        }
        // It is gone, or changed: the watch says so.
        Err(error) if is_absent(&error) || is_conflict(&error) => true,
        Err(error) => {
            trouble.said("patch", STATUS, &error, &shared.metrics);
            false
        }
    }
}

/// What the status should be. Pure.
pub(super) fn status(
    seen: &SeenMeshConfig,
    cut: Option<&str>,
    in_force: &TrustDomain,
    now: Timestamp,
) -> MeshConfigStatus {
    let (status, reason, message) = match (&seen.verdict, &seen.trust_domain) {
        (Err(error), _) => {
            let message = format!("{error}; what was last accepted stays in force");
            ("False", "Invalid", message)
        }
        (Ok(()), Some(domain)) if domain != in_force.as_str() => {
            let message = format!(
                "the mesh runs with the trust domain {in_force:?}, and every identity is made of it: it cannot become {domain:?} while the mesh \
                 runs. Put it back; or restart every controller and have every agent renew its certificates. Everything else is in force"
            );
            ("False", "TrustDomainChanged", message)
        }
        (Ok(()), _) => {
            let cut = cut.map(|cut| format!(". {cut}")).unwrap_or_default();
            ("True", "InForce", format!("in force as it stands{cut}"))
        }
    };
    let old = seen.status.conditions.iter().find(|condition| condition.type_ == "Accepted");
    let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    let accepted = Condition {
        type_: "Accepted".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: since
            .unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        observed_generation: seen.generation,
    };
    MeshConfigStatus { observed_generation: seen.generation, conditions: vec![accepted] }
}
