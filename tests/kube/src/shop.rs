//! A shop under traffic: a server and two clients, over both nodes and within one, all captured.

use std::sync::Arc;

use anyhow::Result;
use lab::{Pod, Service};

use crate::Cluster;
use crate::traffic::Traffic;

/// It runs until its traffic is closed.
#[derive(Debug)]
pub struct Shop {
    /// The server, on node b.
    pub web: Arc<Pod>,
    /// What its clients, on nodes a and b, say to its Service.
    pub traffic: Traffic,
    _service: Service,
}

impl Shop {
    /// Namespace `shop`, labelled; returns once everybody is captured and has been heard.
    pub fn open(cluster: &Cluster) -> Result<Self> {
        cluster.namespace("shop").captured()?;
        let web = cluster.pod("shop/web").node("b").label("app", "web").service_account("web").start()?;
        let far = cluster.pod("shop/far").node("a").service_account("client").start()?;
        let near = cluster.pod("shop/near").node("b").service_account("client").start()?;
        let service = cluster.service("shop/web").select("app", "web").port(80, 8080).create()?;
        for pod in [&web, &far, &near] {
            cluster.await_captured(pod)?;
        }
        cluster.await_peers_tunnel(&web)?;
        service.await_endpoints(cluster, 2)?;
        let to = service.v4().into();
        let traffic = Traffic::start(&web, 8080, &[(&far, to, 80), (&near, to, 80)])?;
        traffic.await_more(20)?;
        Ok(Self { web, traffic, _service: service })
    }
}
