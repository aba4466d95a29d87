//! What several files of the Kubernetes suite share. The suite itself is in `tests/`, one file a promise.
