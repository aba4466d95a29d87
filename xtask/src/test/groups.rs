//! The groups of tests. A new group is a row of [`GROUPS`] and a package.

/// Tests that are run and counted together.
#[derive(Debug)]
pub(super) struct Group {
    /// `a-z` and `-`.
    pub(super) name: &'static str,
    /// One line for people.
    pub(super) about: &'static str,
    /// The packages whose tests they are; empty: every default member that no other group has.
    pub(super) packages: &'static [&'static str],
    /// Do they need root, the kernel's features, the eBPF object and the test programs?
    pub(super) privileged: bool,
}

impl Group {
    /// Does it need an API server, Helm and a container runtime too?
    pub(super) fn needs_kube(&self) -> bool {
        self.packages.contains(&"kube-tests")
    }

    /// Does it need Prometheus?
    pub(super) fn needs_prometheus(&self) -> bool {
        self.packages.contains(&"observe")
    }
}

/// All groups, in the order in which they are run.
pub(super) const GROUPS: &[Group] = &[
    Group {
        name: "unit",
        about: "unit tests, doc tests, house rules and formatting; for an ordinary user",
        packages: &[],
        privileged: false,
    },
    Group {
        name: "lab",
        about: "the lab itself: nodes and pods come up, and nothing of them stays",
        packages: &["lab"],
        privileged: true,
    },
    Group {
        name: "ebpf",
        about: "the kernel half: the object's layout, its programs run by the kernel",
        packages: &["ebpf-tests"],
        privileged: true,
    },
    Group {
        name: "datapath",
        about: "the product's promises, on nodes and pods made of namespaces and cgroups",
        packages: &["datapath"],
        privileged: true,
    },
    Group {
        name: "escapes",
        about: "programs in captured pods that try to go around the mesh, or to be somebody else",
        packages: &["escapes"],
        privileged: true,
    },
    Group {
        name: "hostile",
        about: "peers on the wire: hostile ones, that cost little and disturb nobody, and foreign ones, with which it gets on",
        packages: &["hostile", "foreign"],
        privileged: true,
    },
    Group {
        name: "exhaustion",
        about: "what runs out (ports, backlogs, maps, descriptors) refuses, is counted, and disturbs nobody",
        packages: &["exhaustion"],
        privileged: true,
    },
    Group {
        name: "faults",
        about: "what breaks around the mesh: hosts that vanish, agents killed, pods that start over, hooks taken away",
        packages: &["faults"],
        privileged: true,
    },
    Group {
        name: "policy",
        about: "who may talk to whom, with real connections on every path, and what is said of it",
        packages: &["policy"],
        privileged: true,
    },
    Group {
        name: "observe",
        about: "what operators see: dashboards and rules, a real Prometheus, counts that agree with what was sent",
        packages: &["observe"],
        privileged: true,
    },
    Group {
        name: "kube",
        about: "the mesh from the Kubernetes API: a real API server, real Helm, and what happens when either is gone",
        packages: &["kube-tests"],
        privileged: true,
    },
];

/// The groups of these names, each once, in the table's order; all of them for no name. An unknown name is returned.
pub(super) fn select(names: &[String]) -> Result<Vec<&'static Group>, String> {
    if let Some(unknown) = names.iter().find(|name| GROUPS.iter().all(|group| group.name != **name)) {
        return Err(unknown.clone());
    }
    Ok(GROUPS
        .iter()
        .filter(|group| names.is_empty() || names.iter().any(|name| name == group.name))
        .collect())
}

#[cfg(test)]
mod tests;
