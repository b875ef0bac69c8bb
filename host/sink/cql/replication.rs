//! Whether a write consistency keeps rows safe under a keyspace's replication. Pure: the cluster's answers come in as data.

use std::collections::BTreeMap;

use crate::failure::{Check, Exit, Failure};
use crate::symptom::Symptom;

/// How many replicas of each row a keyspace has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replication {
    /// On this many nodes, wherever they are.
    Simple(u32),
    /// On this many nodes of each of these data centres.
    Network(BTreeMap<String, u32>),
    /// By a class that this file does not know.
    Other(String),
}

/// The nodes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    /// The data centre of the node that answered.
    pub(super) local: String,
    /// Nodes of each data centre, including those that are down.
    pub(super) nodes: BTreeMap<String, u32>,
}

impl Replication {
    /// Reads the map in `system_schema.keyspaces`.
    pub(super) fn of(described: &BTreeMap<String, String>) -> Replication {
        let class = described.get("class").map_or("", |class| class.rsplit('.').next().unwrap_or_default());
        // A transient replica is written "3/1": of 3 replicas 1 is transient.
        let number = |text: &String| text.split('/').next().and_then(|n| n.trim().parse::<u32>().ok());
        let factors = || described.iter().filter(|(name, _)| *name != "class");
        let known = match class {
            "SimpleStrategy" => described.get("replication_factor").and_then(number).map(Replication::Simple),
            "NetworkTopologyStrategy" => {
                let each: Option<BTreeMap<String, u32>> =
                    factors().map(|(centre, n)| Some((centre.clone(), number(n)?))).collect();
                each.map(Replication::Network)
            }
            _ => None,
        };
        known.unwrap_or_else(|| Replication::Other(class.to_owned()))
    }

    fn text(&self) -> String {
        match self {
            Replication::Simple(n) => format!("replication factor {n}"),
            Replication::Network(factors) => {
                let each: Vec<String> = factors.iter().map(|(centre, n)| format!("{n} in {centre}")).collect();
                format!("replication factor {}", each.join(", "))
            }
            Replication::Other(class) => format!("replication by {class}"),
        }
    }
}

/// A group of nodes in which replicas must acknowledge.
struct Demand {
    /// Acknowledgements that a write needs there.
    needed: u32,
    /// Replicas of a row there.
    replicas: u32,
    /// Nodes there.
    nodes: u32,
    /// The group's name.
    place: String,
}

fn demands(consistency: &str, replication: &Replication, cluster: &Cluster) -> Vec<Demand> {
    let every: u32 = cluster.nodes.values().sum();
    let nodes_of = |centre: &str| cluster.nodes.get(centre).copied().unwrap_or(0);
    let quorum = |replicas: u32| replicas / 2 + 1;
    let (all, by_centre) = match replication {
        Replication::Simple(n) => (*n, BTreeMap::from([(cluster.local.clone(), *n)])),
        Replication::Network(factors) => (factors.values().sum(), factors.clone()),
        Replication::Other(_) => return Vec::new(),
    };
    let local = by_centre.get(&cluster.local).copied().unwrap_or(0);
    let anywhere = |needed| vec![Demand { needed, replicas: all, nodes: every, place: "the cluster".to_owned() }];
    let nearby = |needed| {
        let place = format!("data centre {}", cluster.local);
        let nodes = if matches!(replication, Replication::Simple(_)) { every } else { nodes_of(&cluster.local) };
        vec![Demand { needed, replicas: local, nodes, place }]
    };
    match consistency.to_ascii_uppercase().as_str() {
        "LOCAL_QUORUM" => nearby(quorum(local)),
        "LOCAL_ONE" => nearby(1),
        "QUORUM" => anywhere(quorum(all)),
        "TWO" => anywhere(2),
        "THREE" => anywhere(3),
        "ALL" => anywhere(all),
        "EACH_QUORUM" => {
            let each = by_centre.iter().map(|(centre, &replicas)| Demand {
                needed: quorum(replicas),
                replicas,
                nodes: nodes_of(centre),
                place: format!("data centre {centre}"),
            });
            each.collect()
        }
        _ => anywhere(1), // ONE and ANY
    }
}

/// Returns the check of writes with this consistency.
pub(super) fn judge(keyspace: &str, consistency: &str, replication: &Replication, cluster: &Cluster) -> Check {
    let subject = format!("replication of {keyspace}");
    let text = replication.text();
    let demands = demands(consistency, replication, cluster);
    let unmet = demands.iter().find(|d| d.needed > d.replicas.min(d.nodes));
    if let Some(Demand { needed, replicas, nodes, place }) = unmet {
        let message = format!(
            "{text}: {consistency} needs {needed} acknowledgement(s) in {place}, which has {nodes} node(s) and {replicas} replica(s) of \
             each row, so every write would wait forever; lower sink.cql.consistency, or raise the replication factor"
        );
        let failure = Failure::new(Exit::Outside, message);
        return Check::refused(subject, failure).of(Symptom::ConsistencyUnsatisfiable);
    }
    if demands.iter().any(|d| d.replicas == 1) {
        let message = format!(
            "{text}: while a row's only node is down the pipeline waits, and if that node dies, its rows are gone"
        );
        return Check::warning(subject, message).of(Symptom::ReplicationOne);
    }
    if demands.iter().any(|d| d.needed * 2 <= d.replicas) {
        let message = format!(
            "{text}: with {consistency} a checkpoint may cover rows that only a minority of the replicas has; if such a node dies, its \
             rows are gone and are not written again"
        );
        return Check::warning(subject, message).of(Symptom::ConsistencyWeak);
    }
    Check::fine(subject, format!("{text}, {consistency}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(pairs: &[(&str, &str)]) -> Replication {
        Replication::of(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn network(factors: &[(&str, u32)]) -> Replication {
        Replication::Network(factors.iter().map(|(centre, n)| ((*centre).to_owned(), *n)).collect())
    }

    /// A cluster whose first data centre is the local one.
    fn cluster(nodes: &[(&str, u32)]) -> Cluster {
        let nodes_by_centre = nodes.iter().map(|(centre, n)| ((*centre).to_owned(), *n)).collect();
        Cluster { local: nodes[0].0.to_owned(), nodes: nodes_by_centre }
    }

    #[track_caller]
    fn check(consistency: &str, replication: &Replication, nodes: &[(&str, u32)], expect: Option<Symptom>) {
        let check = judge("ks", consistency, replication, &cluster(nodes));
        assert_eq!(check.symptom, expect, "{}", check.detail);
    }

    #[test]
    fn replication_is_read_as_the_databases_write_it() {
        let simple =
            described(&[("class", "org.apache.cassandra.locator.SimpleStrategy"), ("replication_factor", "3")]);
        assert_eq!(simple, Replication::Simple(3));
        let two = described(&[("class", "NetworkTopologyStrategy"), ("dc1", "3/1"), ("dc2", "2")]);
        assert_eq!(two, network(&[("dc1", 3), ("dc2", 2)]));
        assert_eq!(described(&[("class", "LocalStrategy")]), Replication::Other("LocalStrategy".into()));
    }

    #[test]
    fn a_consistency_that_the_cluster_cannot_meet_is_refused() {
        let unmet = Some(Symptom::ConsistencyUnsatisfiable);
        check("LOCAL_QUORUM", &Replication::Simple(3), &[("dc1", 1)], unmet);
        check("LOCAL_QUORUM", &Replication::Simple(3), &[("dc1", 2)], None);
        check("THREE", &Replication::Simple(2), &[("dc1", 3)], unmet);
        check("LOCAL_QUORUM", &network(&[("dc2", 3)]), &[("dc1", 3), ("dc2", 3)], unmet);
        check("EACH_QUORUM", &network(&[("dc1", 3), ("dc2", 3)]), &[("dc1", 3), ("dc2", 1)], unmet);
        check("ALL", &Replication::Simple(3), &[("dc1", 2)], unmet);
    }

    #[test]
    fn a_warning_says_that_a_lost_node_would_lose_rows() {
        check("LOCAL_QUORUM", &Replication::Simple(1), &[("dc1", 3)], Some(Symptom::ReplicationOne));
        check("ONE", &Replication::Simple(3), &[("dc1", 3)], Some(Symptom::ConsistencyWeak));
        check("ANY", &network(&[("dc1", 3)]), &[("dc1", 3)], Some(Symptom::ConsistencyWeak));
        check("TWO", &Replication::Simple(3), &[("dc1", 3)], None);
        check("LOCAL_QUORUM", &network(&[("dc1", 3)]), &[("dc1", 3)], None);
        check("QUORUM", &Replication::Other("LocalStrategy".into()), &[("dc1", 1)], None);
    }
}
