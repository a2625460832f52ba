//! Who gets which partition: balanced, and moving as few as possible; what moves is taken from its owner first.
//!
//! This is what Kafka's `cooperative-sticky` assignor promises, so that a group may be led by us or by a Java client.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::TopicPartition;

/// What a member says when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// Topics that it reads.
    pub topics: BTreeSet<String>,
    /// Partitions that it has.
    pub owned: BTreeSet<TopicPartition>,
    /// The generation in which it got them.
    pub generation: i32,
}

/// Assigns the partitions of the topics to the members.
///
/// A partition that another member still has is given to nobody: its owner gives it up, joins again, and then it is free.
pub(super) fn assign(
    members: &BTreeMap<String, Member>,
    topics: &BTreeMap<String, BTreeSet<TopicPartition>>,
) -> BTreeMap<String, BTreeSet<TopicPartition>> {
    let owners = owners(members, topics);
    let mut shares: BTreeMap<&str, BTreeSet<&TopicPartition>> =
        members.keys().map(|name| (name.as_str(), BTreeSet::new())).collect();
    let mut free = Vec::new();
    for partition in topics.values().flatten() {
        match owners.get(partition) {
            Some(owner) => _ = shares.entry(owner).or_default().insert(partition),
            None => free.push(partition),
        }
    }
    for partition in free {
        let takers = members.iter().filter(|(_, member)| member.topics.contains(&*partition.topic));
        if let Some((name, _)) = takers.min_by_key(|(name, _)| shares[name.as_str()].len()) {
            shares.entry(name).or_default().insert(partition);
        }
    }
    balance(members, &mut shares);
    let settled = |name: &str, partition: &TopicPartition| owners.get(partition).is_none_or(|owner| *owner == name);
    shares
        .into_iter()
        .map(|(name, share)| (name.to_owned(), share.into_iter().filter(|p| settled(name, p)).cloned().collect()))
        .collect()
}

/// Who has what, by the members' own words. Two may claim the same after one was away: the later generation is right;
/// of the same generation nobody is.
fn owners<'a>(
    members: &'a BTreeMap<String, Member>,
    topics: &BTreeMap<String, BTreeSet<TopicPartition>>,
) -> BTreeMap<&'a TopicPartition, &'a str> {
    let mut claims: BTreeMap<&TopicPartition, (i32, Option<&str>)> = BTreeMap::new();
    for (name, member) in members {
        for partition in &member.owned {
            let exists = topics.get(&*partition.topic).is_some_and(|partitions| partitions.contains(partition));
            if !exists || !member.topics.contains(&*partition.topic) {
                continue;
            }
            let claim = claims.entry(partition).or_insert((i32::MIN, None));
            if member.generation > claim.0 {
                *claim = (member.generation, Some(name));
            } else if member.generation == claim.0 {
                claim.1 = None;
            }
        }
    }
    claims.into_iter().filter_map(|(partition, (_, owner))| Some((partition, owner?))).collect()
}

/// Moves partitions from who has most to who has least, until no two that could exchange one differ by more than one.
fn balance<'a>(members: &BTreeMap<String, Member>, shares: &mut BTreeMap<&'a str, BTreeSet<&'a TopicPartition>>) {
    loop {
        let mut by_size: Vec<(usize, &str)> = shares.iter().map(|(name, share)| (share.len(), *name)).collect();
        by_size.sort_unstable();
        let step = by_size.iter().rev().find_map(|(most, from)| {
            by_size.iter().take_while(|(least, _)| least + 1 < *most).find_map(|(_, to)| {
                // The highest number first: the order in which they were given out, backwards.
                let partition = shares[from].iter().rev().find(|p| members[*to].topics.contains(&*p.topic))?;
                Some((*from, *to, *partition))
            })
        });
        let Some((from, to, partition)) = step else { return };
        let from = shares.keys().copied().find(|name| *name == from);
        let to = shares.keys().copied().find(|name| *name == to);
        if let (Some(from), Some(to)) = (from, to) {
            shares.entry(from).or_default().remove(partition);
            shares.entry(to).or_default().insert(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(sizes: &[(&str, i32)]) -> BTreeMap<String, BTreeSet<TopicPartition>> {
        let partitions = |name: &str, count| (0..count).map(|number| TopicPartition::new(name, number)).collect();
        sizes.iter().map(|(name, count)| ((*name).to_owned(), partitions(name, *count))).collect()
    }

    fn group(count: usize, reads: &[&str]) -> BTreeMap<String, Member> {
        let member = || Member { topics: reads.iter().map(|name| (*name).to_owned()).collect(), ..Member::default() };
        (0..count).map(|number| (format!("m{number}"), member())).collect()
    }

    /// What the members do: give up what they lose, join again, until nothing moves. Says in how many rounds.
    fn settle(members: &mut BTreeMap<String, Member>, topics: &BTreeMap<String, BTreeSet<TopicPartition>>) -> usize {
        for round in 1..10 {
            let assigned = assign(members, topics);
            let mut quiet = true;
            for (name, member) in members.iter_mut() {
                let gives_up = !member.owned.is_subset(&assigned[name]);
                member.owned = assigned[name].clone();
                member.generation += 1;
                quiet &= !gives_up;
            }
            let owned: usize = members.values().map(|member| member.owned.len()).sum();
            let distinct: BTreeSet<_> = members.values().flat_map(|member| &member.owned).collect();
            assert_eq!(owned, distinct.len(), "nothing is given to two");
            if quiet {
                return round;
            }
        }
        panic!("it does not settle");
    }

    fn sizes(members: &BTreeMap<String, Member>) -> Vec<usize> {
        members.values().map(|member| member.owned.len()).collect()
    }

    #[test]
    fn a_new_member_gets_its_part_after_the_owners_gave_it_up() {
        let topics = topics(&[("t", 12)]);
        let mut members = group(2, &["t"]);
        assert_eq!(settle(&mut members, &topics), 1);
        assert_eq!(sizes(&members), [6, 6]);
        let before = members.clone();
        members.extend(group(3, &["t"]).into_iter().filter(|(name, _)| name == "m2"));
        let first = assign(&members, &topics);
        assert_eq!((first["m0"].len(), first["m1"].len(), first["m2"].len()), (4, 4, 0), "taken first, given later");
        settle(&mut members, &topics);
        assert_eq!(sizes(&members), [4, 4, 4]);
        for (name, member) in before {
            assert!(members[&name].owned.is_subset(&member.owned), "nothing else moves");
        }
    }

    #[test]
    fn what_a_member_leaves_is_shared_at_once() {
        let topics = topics(&[("t", 9)]);
        let mut members = group(3, &["t"]);
        settle(&mut members, &topics);
        members.remove("m1");
        assert_eq!(settle(&mut members, &topics), 1);
        assert_eq!(members.values().map(|member| member.owned.len()).sum::<usize>(), 9);
    }

    #[test]
    fn the_later_generation_owns_what_two_claim() {
        let topics = topics(&[("t", 1)]);
        let mut members = group(2, &["t"]);
        for (name, generation) in [("m0", 3), ("m1", 5)] {
            let member = members.get_mut(name).expect("a member");
            member.owned = topics["t"].clone();
            member.generation = generation;
        }
        assert_eq!(assign(&members, &topics)["m1"].len(), 1);
        members.get_mut("m0").expect("a member").generation = 5;
        let assigned = assign(&members, &topics);
        assert_eq!(assigned.values().map(BTreeSet::len).sum::<usize>(), 1, "nobody's, so it is free");
    }

    proptest::proptest! {
        #[test]
        fn it_settles_balanced_and_complete(
            sizes in proptest::collection::vec(0i32..8, 1..5),
            reads in proptest::collection::vec(proptest::collection::btree_set(0usize..4, 0..4), 1..6),
            owned in proptest::collection::vec((0usize..6, 0usize..5, 0i32..8, -1i32..3), 0..20),
        ) {
            let names: Vec<String> = (0..sizes.len()).map(|number| format!("t{number}")).collect();
            let all: Vec<(&str, i32)> = names.iter().map(String::as_str).zip(sizes.iter().copied()).collect();
            let topics = topics(&all);
            let mut members: BTreeMap<String, Member> = reads.iter().enumerate().map(|(number, reads)| {
                let topics = reads.iter().map(|number| format!("t{number}")).collect();
                (format!("m{number}"), Member { topics, ..Member::default() })
            }).collect();
            for (member, topic, number, generation) in owned {
                if let Some(member) = members.get_mut(&format!("m{member}")) {
                    member.owned.insert(TopicPartition::new(format!("t{topic}").as_str(), number));
                    member.generation = generation;
                }
            }
            settle(&mut members, &topics);
            for partition in topics.values().flatten() {
                let readers = members.values().filter(|member| member.topics.contains(&*partition.topic)).count();
                let owners = members.values().filter(|member| member.owned.contains(partition)).count();
                proptest::prop_assert_eq!(owners, readers.min(1));
            }
            for from in members.values() {
                for to in members.values() {
                    let could = from.owned.iter().any(|partition| to.topics.contains(&*partition.topic));
                    proptest::prop_assert!(!could || from.owned.len() <= to.owned.len() + 1);
                }
            }
        }
    }
}
