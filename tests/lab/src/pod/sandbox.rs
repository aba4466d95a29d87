//! What may happen to a pod that runs, by kubelet's hand or by an operator's: another sandbox, or an object that is gone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Pod;
use crate::process::{Command, Site};

impl Pod {
    /// The process that holds the pod, in a container of its own.
    pub(super) fn start_pause(&self) -> Result<()> {
        let pause = self.cgroup.child(&self.node.new_container()?)?;
        let site = Site { cgroup: Some(pause), ..self.site(None)? };
        let process = Command::new(site, ["weft-lab-peer", "pause"]).log("pause").spawn()?;
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// Starts its sandbox over, as kubelet does when a pause process has died: same UID and cgroup, every process killed,
    /// another network namespace with other addresses. This value stands for nothing afterwards, the returned one does.
    pub fn restart_sandbox(&self) -> Result<Arc<Pod>> {
        let restart = || -> Result<Arc<Pod>> {
            self.cgroup.kill(Duration::from_secs(10))?;
            self.pause.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.node.detach(&self.attachment)?;
            self.netns.unname()?;
            let (netns, attachment) = self.node.attach(self.netns.name(), self.spec.v4_only, None)?;
            let pod = Arc::new(Pod {
                world: self.world.clone(),
                spec: self.spec.clone(),
                uid: self.uid.clone(),
                node: self.node.clone(),
                attachment,
                netns,
                cgroup: self.cgroup.clone(),
                main: self.cgroup.child(&self.node.new_container()?)?,
                pause: Mutex::new(None),
                status: Mutex::new(self.status().clone()),
            });
            pod.start_pause()?;
            Ok(pod)
        };
        let pod = restart().with_context(|| format!("start the sandbox of {} over", self.key()))?;
        self.world()?.admit(&pod)?;
        Ok(pod)
    }

    /// Takes its object away while its processes run on: `kubectl delete --force` with a kubelet that is not asked.
    pub fn delete_object(&self) -> Result<()> {
        self.world()?.forget_pod(self)
    }
}
