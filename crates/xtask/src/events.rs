//! Clickstream session events: a stream that can be made again, event by event, to check what became of it.

use chrono::{DateTime, Duration, Utc};
use rskafka::record::Record;

const PAGES: [&str; 6] = ["products", "search", "basket", "help", "account", "offers"];
const ACTIONS: [&str; 4] = ["page_view", "click", "scroll", "add_to_basket"];
const DEVICES: [&str; 3] = ["phone", "tablet", "desktop"];

/// A stream of events. Event `n` is always the same for the same stream.
#[derive(Debug, Clone)]
pub struct Events {
    seed: u64,
    users: u64,
    started: DateTime<Utc>,
}

impl Events {
    /// A stream of events by `users` users (at least one), one event a millisecond from `started` on.
    pub fn new(seed: u64, users: u64, started: DateTime<Utc>) -> Self {
        Self { seed, users: users.max(1), started }
    }

    /// Whose event this is; also a good partition number, since a user's events belong into one partition.
    pub fn user(&self, number: u64) -> u64 {
        scramble(self.seed ^ scramble(number)) % self.users
    }

    /// The key of a user's events.
    pub fn key(user: u64) -> String {
        format!("user-{user:06}")
    }

    /// The event, about 200 bytes of JSON. No two events are the same, so an older one is never taken for a newer.
    pub fn value(&self, number: u64) -> String {
        let user = self.user(number);
        let random = scramble(number ^ self.seed.rotate_left(32));
        let session = scramble(self.seed ^ user);
        let action = pick(&ACTIONS, random);
        let page = pick(&PAGES, random >> 16);
        let device = pick(&DEVICES, session);
        let item = random % 10_000;
        let at = self.time(number).format("%Y-%m-%dT%H:%M:%S%.3fZ");
        format!(
            r#"{{"user":"{key}","session":"{session:016x}","sequence":{number},"action":"{action}","page":"/{page}/{item:04}","device":"{device}","country":"CH","language":"de","at":"{at}","active":true}}"#,
            key = Self::key(user),
        )
    }

    /// The event as a Kafka record.
    pub fn record(&self, number: u64) -> Record {
        Record {
            key: Some(Self::key(self.user(number)).into_bytes()),
            value: Some(self.value(number).into_bytes()),
            headers: Default::default(),
            timestamp: self.time(number),
        }
    }

    /// For each user the number of the last of the first `count` events, `None` for one without events.
    pub fn last_of_each_user(&self, count: u64) -> Vec<Option<u64>> {
        let mut last = vec![None; self.users as usize];
        for number in 0..count {
            last[self.user(number) as usize] = Some(number);
        }
        last
    }

    fn time(&self, number: u64) -> DateTime<Utc> {
        self.started + Duration::milliseconds(number as i64)
    }
}

fn pick<'a>(choices: &[&'a str], random: u64) -> &'a str {
    choices[(random % choices.len() as u64) as usize]
}

/// SplitMix64: spreads numbers evenly, the same on every machine and with every version of every library.
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(seed: u64) -> Events {
        Events::new(seed, 1_000, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn the_same_stream_gives_the_same_events() {
        for number in [0, 1, 99_999, u64::from(u32::MAX)] {
            assert_eq!(events(7).record(number), events(7).record(number));
            assert_ne!(events(7).value(number), events(8).value(number));
        }
    }

    #[test]
    fn events_are_about_200_bytes_of_json() {
        for number in [0, 12, 999_999] {
            let value = events(7).value(number);
            assert!((180..=220).contains(&value.len()), "{}", value.len());
            let parsed: serde_json::Value = serde_json::from_str(&value).unwrap();
            assert_eq!(parsed["sequence"], number);
            assert_eq!(parsed["user"], Events::key(events(7).user(number)));
        }
    }

    #[test]
    fn users_come_up_evenly() {
        let mut counts = vec![0; 1_000];
        for number in 0..100_000 {
            counts[events(7).user(number) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (40..=180).contains(count)));
    }

    #[test]
    fn the_last_event_of_each_user_is_known() {
        let last = events(7).last_of_each_user(500);
        let newest = events(7).user(499) as usize;
        assert_eq!(last[newest], Some(499));
        for (user, number) in last.iter().enumerate() {
            let Some(number) = number else { continue };
            assert_eq!(events(7).user(*number), user as u64);
            assert!((number + 1..500).all(|later| events(7).user(later) != user as u64));
        }
    }
}
