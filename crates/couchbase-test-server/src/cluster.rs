//! The cluster configuration: who has which vbucket.

use serde_json::{Value, json};

/// Number of vbuckets; the real server has 1024, clients take what the configuration says.
pub const VBUCKETS: usize = 64;

/// The ports of one node. Clients tell nodes apart by host and management port.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub key_value: u16,
    pub management: u16,
}

/// Nodes and the vbuckets that are active on them.
pub struct Cluster {
    tls: bool,
    replicas: usize,
    revision: u64,
    nodes: Vec<Ports>,
    advertised: Option<u16>,
    active: Vec<usize>,
}

impl Cluster {
    pub fn new(tls: bool, replicas: usize, nodes: Vec<Ports>) -> Self {
        let active = (0..VBUCKETS).map(|vbucket| vbucket % nodes.len()).collect();
        Self { tls, replicas, revision: 1, nodes, advertised: None, active }
    }

    /// Whether the node has this vbucket.
    pub fn owns(&self, node: usize, vbucket: u16) -> bool {
        self.active.get(vbucket as usize) == Some(&node)
    }

    /// Tells clients this key-value port in place of the first node's own: that of a proxy before it.
    pub fn advertise(&mut self, port: Option<u16>) {
        self.advertised = port;
    }

    /// The ports as clients are told them.
    fn told(&self) -> Vec<Ports> {
        let mut nodes = self.nodes.clone();
        if let (Some(first), Some(port)) = (nodes.first_mut(), self.advertised) {
            first.key_value = port;
        }
        nodes
    }

    /// Moves every vbucket to the next node.
    pub fn rotate(&mut self) {
        self.revision += 1;
        self.active.iter_mut().for_each(|node| *node = (*node + 1) % self.nodes.len());
    }

    /// The configuration as the node tells it: of this bucket, or of the cluster alone.
    pub fn configuration(&self, node: usize, bucket: Option<&str>) -> Value {
        let services = |ports: &Ports| match self.tls {
            // Clients look for the plain management port even where they don't use it.
            true => json!({"kvSSL": ports.key_value, "mgmtSSL": ports.management, "mgmt": ports.management}),
            false => json!({"kv": ports.key_value, "mgmt": ports.management}),
        };
        let ext = |(index, ports): (usize, &Ports)| json!({"hostname": "127.0.0.1", "thisNode": index == node, "services": services(ports)});
        let nodes_ext: Vec<Value> = self.told().iter().enumerate().map(ext).collect();
        let mut configuration = json!({
            "rev": self.revision,
            "revEpoch": 1,
            "clusterCapabilitiesVer": [1, 0],
            "clusterCapabilities": {},
            "clusterUUID": "couchbase-test-server",
            "clusterName": "couchbase-test-server",
            "nodesExt": nodes_ext,
        });
        if let Some(bucket) = bucket {
            self.add_bucket(bucket, &mut configuration);
        }
        configuration
    }

    fn add_bucket(&self, bucket: &str, configuration: &mut Value) {
        let address = |ports: &Ports| json!(format!("127.0.0.1:{}", ports.key_value));
        let node = |ports: &Ports| {
            let hostname = format!("127.0.0.1:{}", ports.management);
            json!({"hostname": hostname, "ports": {"direct": ports.key_value}})
        };
        // A replica is told as missing: nothing here is replicated.
        let chain = |node: &usize| {
            let mut chain = vec![*node as i16];
            chain.resize(1 + self.replicas, -1);
            chain
        };
        configuration["name"] = json!(bucket);
        configuration["uuid"] = json!(format!("uuid-of-{bucket}"));
        configuration["nodeLocator"] = json!("vbucket");
        configuration["nodes"] = self.told().iter().map(node).collect();
        configuration["bucketCapabilitiesVer"] = json!("");
        configuration["bucketCapabilities"] = json!([
            "collections",
            "durableWrite",
            "tombstonedUserXAttrs",
            "subdoc.ReviveDocument",
            "xattr",
            "cccp",
            "nodesExt",
            "touch",
            "couchapi",
        ]);
        configuration["vBucketServerMap"] = json!({
            "hashAlgorithm": "CRC",
            "numReplicas": self.replicas,
            "serverList": self.told().iter().map(address).collect::<Vec<_>>(),
            "vBucketMap": self.active.iter().map(chain).collect::<Vec<_>>(),
        });
    }
}
