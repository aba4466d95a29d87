//! A workload, to the wire and back.

use mesh_model::policy::{Bindings, PolicyKey, PortMtls};
use mesh_model::{Phase, Reason, Tunnel, Uid, Workload};

use super::{Name, Reader, ResourceError, encode_address, encode_mtls, encode_range};
use crate::proto;

pub(super) fn encode(workload: &Workload) -> proto::Workload {
    let bindings = &workload.bindings;
    proto::Workload {
        uid: workload.uid.as_str().into(),
        namespace: workload.namespace.as_ref().into(),
        name: workload.name.as_ref().into(),
        owner: workload.owner.as_ref().into(),
        node: workload.node.as_ref().into(),
        identity: workload.identity.to_string(),
        addresses: workload.addresses.iter().map(encode_address).collect(),
        enrolled: workload.enrolled,
        tunnel: match workload.tunnel {
            Tunnel::None => proto::Tunnel::None,
            Tunnel::Hbone => proto::Tunnel::Hbone,
            Tunnel::Withdrawn => proto::Tunnel::Withdrawn,
            Tunnel::Foreign => proto::Tunnel::Foreign,
        }
        .into(),
        phase: match workload.phase {
            Phase::Pending => proto::Phase::Pending,
            Phase::Running => proto::Phase::Running,
            Phase::Terminating => proto::Phase::Terminating,
            Phase::Finished => proto::Phase::Finished,
        }
        .into(),
        host_network: workload.host_network,
        left_alone: workload.left_alone.map(Reason::as_str).unwrap_or_default().into(),
        policies: bindings.iter().flat_map(|own| &own.policies).map(PolicyKey::to_string).collect(),
        mtls: bindings.iter().flat_map(|own| &own.mtls).map(encode_port).collect(),
    }
}

fn encode_port(port: &PortMtls) -> proto::PortMtls {
    proto::PortMtls { ports: Some(encode_range(&port.ports)), mtls: encode_mtls(port.mtls).into() }
}

pub(super) fn decode(name: &Name, message: proto::Workload) -> Result<Workload, ResourceError> {
    let read = Reader(name);
    let uid = Uid::new(read.text("uid", &message.uid)?);
    if *name != Name::Workload(uid.clone()) {
        return Err(read.error("uid", format!("{uid}, of another workload")));
    }
    let tunnel = match proto::Tunnel::try_from(message.tunnel) {
        Ok(proto::Tunnel::None) => Tunnel::None,
        Ok(proto::Tunnel::Hbone) => Tunnel::Hbone,
        Ok(proto::Tunnel::Withdrawn) => Tunnel::Withdrawn,
        Ok(proto::Tunnel::Foreign) => Tunnel::Foreign,
        Ok(proto::Tunnel::Unspecified) | Err(_) => {
            return Err(read.error("tunnel", format!("{}, unknown", message.tunnel)));
        }
    };
    let phase = match proto::Phase::try_from(message.phase) {
        Ok(proto::Phase::Pending) => Phase::Pending,
        Ok(proto::Phase::Running) => Phase::Running,
        Ok(proto::Phase::Terminating) => Phase::Terminating,
        Ok(proto::Phase::Finished) => Phase::Finished,
        Ok(proto::Phase::Unspecified) | Err(_) => {
            return Err(read.error("phase", format!("{}, unknown", message.phase)));
        }
    };
    let left_alone = match message.left_alone.as_str() {
        "" => None,
        word => Some(
            Reason::of_word(word).ok_or_else(|| read.error("left_alone", format!("{word:?}, unknown")))?,
        ),
    };
    Ok(Workload {
        uid,
        namespace: read.text("namespace", &message.namespace)?.into(),
        name: read.text("name", &message.name)?.into(),
        owner: read.text("owner", &message.owner)?.into(),
        node: message.node.as_str().into(),
        identity: message.identity.parse().map_err(|error| ResourceError::Identity(name.clone(), error))?,
        addresses: read.addresses("addresses", &message.addresses)?,
        enrolled: message.enrolled,
        tunnel,
        phase,
        host_network: message.host_network,
        left_alone,
        bindings: bindings(&read, &message.policies, &message.mtls)?,
    })
}

/// Nothing for the many that have none.
fn bindings(
    read: &Reader<'_>,
    policies: &[String],
    mtls: &[proto::PortMtls],
) -> Result<Option<Box<Bindings>>, ResourceError> {
    if policies.is_empty() && mtls.is_empty() {
        return Ok(None);
    }
    let policy = |name: &String| {
        name.parse::<PolicyKey>().map_err(|error| read.error("policies", format!("{name:?}, {error}")))
    };
    let port = |port: &proto::PortMtls| {
        let ports = port.ports.as_ref().ok_or_else(|| read.error("mtls.ports", "missing"))?;
        Ok(PortMtls { ports: read.range("mtls.ports", ports)?, mtls: read.mtls("mtls.mtls", port.mtls)? })
    };
    Ok(Some(Box::new(Bindings {
        policies: policies.iter().map(policy).collect::<Result<_, _>>()?,
        mtls: mtls.iter().map(port).collect::<Result<_, ResourceError>>()?,
    })))
}
