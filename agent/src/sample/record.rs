//! What a container's own runtime has written down about it: names, image, labels.
//!
//! Owns which file that is and what of it becomes a label. Reads files only, and asks no daemon: what
//! cannot be read is left out, and metering does not depend on any of it.
//!
//! | of | file | gives |
//! |---|---|---|
//! | Docker | `/var/lib/docker/containers/ID/config.v2.json` | name, image, labels |
//! | Podman, CRI-O | `…/containers/storage/overlay-containers/{containers,volatile-containers}.json` | name, image |
//! | | `…/overlay-containers/ID/userdata/config.json` | as Kubernetes annotates it |
//! | containerd | `/run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json` | as Kubernetes annotates it |
//! | a pod | name of its folder in `/var/log/pods` | namespace, name |

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::origin::Origin;
use crate::config::Globs;

/// Records are a few KiB; a file beyond this is something else.
const LIMIT_BYTES: u64 = 4 << 20;
/// Most of a container's own labels that travel with it.
const MOST_LABELS: usize = 24;
/// A label that is longer is left out: a cut one would say something else.
const LONGEST_BYTES: usize = 256;

type Labels = Vec<(String, String)>;

/// Where the records are, and which of a container's own labels are taken.
#[derive(Debug)]
pub(super) struct Records {
    root: PathBuf,
    selection: Globs,
}

impl Records {
    /// Below `root`, which is `/` but for tests.
    pub(super) fn new(root: PathBuf, selection: Globs) -> Self {
        Self { root, selection }
    }

    /// All labels of what stands at a path; whether everything is known that it is likely to have.
    pub(super) fn labels(&self, origin: &Origin) -> (Labels, bool) {
        let mut labels = origin.labels();
        let pod = origin.pod.as_deref().map(|uid| self.pod(uid));
        let container = origin.container.as_deref().map(|id| self.container(id));
        let whole = ![&pod, &container].contains(&&Some(Vec::new()));
        // The first of a key stands.
        for (key, value) in pod.into_iter().chain(container).flatten() {
            if !labels.iter().any(|(known, _)| *known == key) {
                labels.push((key, value));
            }
        }
        labels.retain(|(key, value)| fits(key) && fits(value));
        (labels, whole)
    }

    /// The kubelet keeps a pod's logs in `NAMESPACE_NAME_UID`; neither of these has a `_` in it.
    fn pod(&self, uid: &str) -> Labels {
        let Ok(folders) = std::fs::read_dir(self.root.join("var/log/pods")) else {
            return Labels::new();
        };
        let names = folders.filter_map(|folder| folder.ok()?.file_name().into_string().ok());
        let mut pods = names.filter_map(|name| {
            let mut parts = name.split('_');
            let (namespace, pod) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            (parts.next() == Some(uid)).then_some((namespace, pod))
        });
        pods.next().map_or_else(Labels::new, |(namespace, pod)| {
            vec![
                ("k8s.namespace".to_owned(), namespace),
                ("k8s.pod.name".to_owned(), pod),
            ]
        })
    }

    /// Ids are random: whoever has a record of this one made it.
    fn container(&self, id: &str) -> Labels {
        let docker = self.json(&format!("var/lib/docker/containers/{id}/config.v2.json"));
        if let Some(record) = docker {
            return self.docker(&record);
        }
        let mut labels = Labels::new();
        for storage in ["var/lib/containers/storage", "run/containers/storage"] {
            let below = format!("{storage}/overlay-containers");
            for list in ["containers.json", "volatile-containers.json"] {
                let list = self.json(&format!("{below}/{list}"));
                labels.extend(list.and_then(|list| stored(&list, id)).unwrap_or_default());
            }
            let bundle = self.json(&format!("{below}/{id}/userdata/config.json"));
            labels.extend(bundle.map_or_else(Labels::new, |bundle| annotated(&bundle)));
        }
        let task = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json");
        labels.extend(
            self.json(&task)
                .map_or_else(Labels::new, |bundle| annotated(&bundle)),
        );
        labels
    }

    fn docker(&self, record: &Value) -> Labels {
        let name = record["Name"]
            .as_str()
            .map(|name| name.trim_start_matches('/'));
        let image = record["Config"]["Image"].as_str();
        let mut labels = found(&[("container.name", name), ("container.image", image)]);
        let own = record["Config"]["Labels"].as_object();
        let own = own.into_iter().flatten();
        let taken = own
            .filter(|(key, value)| {
                self.selection.selects(key) && value.as_str().is_some_and(fits) && fits(key)
            })
            .take(MOST_LABELS);
        labels.extend(taken.filter_map(|(key, value)| {
            Some((format!("container.label.{key}"), value.as_str()?.to_owned()))
        }));
        labels
    }

    fn json(&self, path: &str) -> Option<Value> {
        read(&self.root.join(path)).and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    let read = file.take(LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
    (read > 0).then_some(bytes)
}

/// An entry of the list that containers/storage keeps: some of it is JSON within JSON.
fn stored(list: &Value, id: &str) -> Option<Labels> {
    let entry = list.as_array()?.iter().find(|entry| entry["id"] == id)?;
    let more: Value = entry["metadata"]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let name = entry["names"][0].as_str().or(more["name"].as_str());
    Some(found(&[
        ("container.name", name),
        ("container.image", more["image-name"].as_str()),
    ]))
}

/// What Kubernetes has its runtimes annotate: containerd in its own words, CRI-O in others.
fn annotated(bundle: &Value) -> Labels {
    let annotation = |keys: [&str; 2]| {
        let values = keys.map(|key| bundle["annotations"][key].as_str());
        values.into_iter().flatten().next()
    };
    found(&[
        (
            "container.name",
            annotation([
                "io.kubernetes.cri.container-name",
                "io.kubernetes.container.name",
            ]),
        ),
        (
            "container.image",
            annotation([
                "io.kubernetes.cri.image-name",
                "io.kubernetes.cri-o.ImageName",
            ]),
        ),
        (
            "k8s.namespace",
            annotation([
                "io.kubernetes.cri.sandbox-namespace",
                "io.kubernetes.pod.namespace",
            ]),
        ),
        (
            "k8s.pod.name",
            annotation(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
        ),
    ])
}

/// Labels that a record gives, read as each kind of record that there is.
#[cfg(feature = "decoders")]
pub(super) fn told(json: &[u8], selection: Globs) -> Option<usize> {
    let record: Value = serde_json::from_slice(json).ok()?;
    let records = Records::new(PathBuf::new(), selection);
    let stored = stored(&record, "a").map_or(0, |labels| labels.len());
    Some(stored + annotated(&record).len() + records.docker(&record).len())
}

fn found(pairs: &[(&str, Option<&str>)]) -> Labels {
    pairs
        .iter()
        .filter_map(|(key, value)| Some(((*key).to_owned(), (*value)?.to_owned())))
        .collect()
}

fn fits(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_BYTES && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Selection};

    const ID: &str = "3c2d9c1e7b8f4a5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
    const UID: &str = "0f2ab9d1-6e1c-4a52-9d4e-1f5a3c7b8d90";

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn with(self, path: &str, text: &str) -> Self {
            let path = self.0.path().join(path.replace("ID", ID));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.replace("ID", ID)).unwrap();
            self
        }

        fn labels_by(&self, selection: &Selection, path: &str) -> (Vec<String>, bool) {
            let records = Records::new(self.0.path().to_owned(), selection.compile().unwrap());
            let (labels, whole) = records.labels(&Origin::of(&path.replace("ID", ID)));
            let text = |(key, value): (String, String)| format!("{key}={value}").replace(ID, "ID");
            (labels.into_iter().map(text).collect(), whole)
        }

        fn labels(&self, path: &str) -> (Vec<String>, bool) {
            self.labels_by(&Config::default().container_labels, path)
        }
    }

    fn docker() -> Host {
        Host::new().with(
            "var/lib/docker/containers/ID/config.v2.json",
            r#"{"ID": "ID", "Name": "/web-1", "State": {"Pid": 77}, "Config": {"Image": "nginx:1.27", "Labels": {
                "com.docker.compose.project": "shop", "tenant": "acme", "maintainer": "somebody",
                "org.opencontainers.image.title": "nginx", "bad": "a\nb", "empty": "", "no": 7}}}"#,
        )
    }

    #[test]
    fn dockers_record_gives_name_image_and_labels() {
        let (labels, whole) = docker().labels("system.slice/docker-ID.scope");
        assert!(whole);
        assert_eq!(
            labels,
            [
                "kind=docker",
                "container.id=ID",
                "systemd.slice=system.slice",
                "container.name=web-1",
                "container.image=nginx:1.27",
                "container.label.com.docker.compose.project=shop",
                "container.label.tenant=acme",
            ]
        );
    }

    #[test]
    fn which_labels_travel_can_be_chosen() {
        let only = Selection {
            include: vec!["tenant".to_owned()],
            exclude: Vec::new(),
        };
        let (labels, _) = docker().labels_by(&only, "docker/ID");
        let own = labels
            .iter()
            .filter(|label| label.starts_with("container.label."));
        assert_eq!(own.collect::<Vec<_>>(), ["container.label.tenant=acme"]);
    }

    #[test]
    fn podmans_storage_gives_name_and_image() {
        let host = Host::new().with(
            "var/lib/containers/storage/overlay-containers/containers.json",
            r#"[{"id": "other", "names": ["x"]}, {"id": "ID", "names": ["db"],
                "metadata": "{\"image-name\":\"docker.io/library/postgres:16\",\"name\":\"db\"}"}]"#,
        );
        let (labels, whole) = host.labels("machine.slice/libpod-ID.scope");
        assert!(whole);
        assert_eq!(
            labels[3..],
            [
                "container.name=db",
                "container.image=docker.io/library/postgres:16"
            ]
        );
    }

    #[test]
    fn a_pod_and_its_container_are_named_by_what_kubelet_and_runtime_left() {
        let log = format!("var/log/pods/shop_cart-7d9f_{UID}/cart/0.log");
        let host = Host::new().with(&log, "").with(
            "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
            r#"{"annotations": {"io.kubernetes.cri.container-name": "cart", "io.kubernetes.cri.image-name": "cart:2",
                "io.kubernetes.cri.sandbox-name": "not this", "io.kubernetes.cri.sandbox-namespace": "not this"}}"#,
        );
        let (labels, whole) = host.labels(&format!("kubepods/burstable/pod{UID}"));
        assert!(whole);
        assert_eq!(
            labels[3..],
            ["k8s.namespace=shop", "k8s.pod.name=cart-7d9f"]
        );
        let (labels, whole) = host.labels(&format!("kubepods/burstable/pod{UID}/ID"));
        assert!(whole);
        assert_eq!(
            labels[4..],
            [
                "k8s.namespace=shop",
                "k8s.pod.name=cart-7d9f",
                "container.name=cart",
                "container.image=cart:2"
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_asked_for_again() {
        let host = Host::new().with(
            "var/lib/docker/containers/ID/config.v2.json",
            "{\"Name\": \"/torn",
        );
        let (labels, whole) = host.labels("docker/ID");
        assert_eq!(labels, ["kind=docker", "container.id=ID"]);
        assert!(!whole);
        assert!(host.labels("system.slice/ssh.service").1);
    }
}
