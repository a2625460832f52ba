//! From a record to what is done in Redis: pure, no I/O.

use bytes::Bytes;
use connect_core::config::Setting;
use connect_core::decode;
use connect_core::{Record, Rejection, Template};

use crate::config::{Command, Condition, HashTombstone, RedisConfig};
use crate::expiry::{Ends, Expiry};
use crate::fields::Shape;
use crate::op::{Action, Op};
use crate::words::{Commands, MOST_WORDS};

/// The settings, in the form in which records are mapped by them.
#[derive(Clone, Debug)]
pub struct Mapping {
    command: Command,
    key: Template,
    value: Template,
    field: Option<Template>,
    shape: Shape,
    hash_tombstone: HashTombstone,
    member: Template,
    score: Template,
    amount: Template,
    longitude: Option<Template>,
    latitude: Option<Template>,
    path: String,
    condition: Condition,
    trim: Option<u32>,
    expiry: Expiry,
}

impl Mapping {
    /// By these settings.
    ///
    /// # Errors
    /// Never in practice: the default of the member is a template.
    pub fn new(config: &RedisConfig) -> Result<Self, String> {
        let member = match config.command {
            Command::SAdd | Command::PfAdd => "{value}",
            _ => "{key}",
        };
        Ok(Self {
            command: config.command,
            key: config.key.clone(),
            value: config.value.clone(),
            field: config.field.clone(),
            shape: Shape { fields: config.fields.clone(), nested: config.nested, separator: config.separator.clone() },
            hash_tombstone: config.hash_tombstone,
            member: config.member.clone().map_or_else(|| <Template as Setting>::parse(member), Ok)?,
            score: config.score.clone(),
            amount: config.amount.clone(),
            longitude: config.longitude.clone(),
            latitude: config.latitude.clone(),
            path: config.path.clone(),
            condition: config.condition,
            trim: config.trim.map(std::num::NonZero::get),
            expiry: Expiry::new(config.ttl, config.ttl_from.clone()),
        })
    }

    /// A key as records have it, where one can be made up.
    pub fn sample_key(&self) -> Option<Vec<u8>> {
        let record = Record {
            topic: "topic".into(),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: Some(Bytes::from_static(b"0")),
            value: None,
            headers: Vec::new(),
        };
        self.key.render(&record).ok().map(|key| key.to_vec())
    }

    /// What the record becomes; `None` when there is nothing to do.
    ///
    /// # Errors
    /// A [`Rejection`] that names what the record lacks.
    pub fn prepare(&self, record: &Record) -> Result<Option<Op>, Rejection> {
        let key = self.key.render(record)?;
        if record.value.is_none() {
            return self.tombstone(key, record);
        }
        let ends = self.expiry.of(record)?;
        let expire_at = match ends {
            Ends::At(at) => Some(at),
            _ => None,
        };
        if self.command == Command::Set && self.condition == Condition::Always && ends == Ends::Never {
            let value = self.value.render(record)?;
            return Ok(Some(Op { key, action: Action::Set(value), expire_at }));
        }
        let mut commands = Commands::default();
        self.write(&key, record, ends, &mut commands)?;
        if commands.is_empty() {
            return Ok(None);
        }
        Ok(Some(Op { key, action: Action::Commands(commands.finish()), expire_at }))
    }

    fn write(&self, key: &Bytes, record: &Record, ends: Ends, commands: &mut Commands) -> Result<(), Rejection> {
        let name = self.command.name().as_bytes();
        match self.command {
            Command::Set => return self.set(key, record, ends, commands),
            Command::IncrBy => {
                let amount = whole_number(&self.amount, record)?;
                commands.push(&[name, key, itoa::Buffer::new().format(amount).as_bytes()]);
            }
            Command::IncrByFloat => {
                commands.push(&[name, key, &number(&self.amount, record, |amount| !amount.is_nan(), "a number")?]);
            }
            Command::HSet => {
                self.hset(key, record, commands)?;
                if commands.is_empty() {
                    return Ok(());
                }
            }
            Command::RPush | Command::LPush => {
                commands.push(&[name, key, &self.value.render(record)?]);
                if let Some(trim) = self.trim {
                    let (from, to) =
                        if self.command == Command::RPush { (-i64::from(trim), -1) } else { (0, i64::from(trim) - 1) };
                    commands.push(&[b"LTRIM", key, from.to_string().as_bytes(), to.to_string().as_bytes()]);
                }
            }
            Command::SAdd | Command::PfAdd => commands.push(&[name, key, &self.member.render(record)?]),
            Command::ZAdd => {
                let score = number(&self.score, record, |score| !score.is_nan(), "a number")?;
                let member = self.member.render(record)?;
                self.conditional(commands, &[name, key], &[&score, &member]);
                if let Some(trim) = self.trim {
                    let last = (-i64::from(trim) - 1).to_string();
                    commands.push(&[b"ZREMRANGEBYRANK", key, b"0", last.as_bytes()]);
                }
            }
            Command::XAdd => self.xadd(key, record, commands)?,
            Command::GeoAdd => {
                let (Some(longitude), Some(latitude)) = (&self.longitude, &self.latitude) else {
                    return Err(Rejection::new("CONNECT_REDIS_LONGITUDE and CONNECT_REDIS_LATITUDE are not set"));
                };
                let degrees = |template| number(template, record, f64::is_finite, "a number of degrees");
                let (longitude, latitude) = (degrees(longitude)?, degrees(latitude)?);
                self.conditional(commands, &[name, key], &[&longitude, &latitude, &self.member.render(record)?]);
            }
            Command::Publish | Command::SPublish => commands.push(&[name, key, &self.value.render(record)?]),
            Command::JsonSet => {
                let value = self.value.render(record)?;
                // What the module says of it is different with each version, and not known here.
                decode::object(&value).map_err(|error| Rejection::new(format!("{} is {error}", self.value)))?;
                let mut words: Vec<&[u8]> = vec![name, key, self.path.as_bytes(), &value];
                words.extend(self.condition.word().map(str::as_bytes));
                commands.push(&words);
            }
        }
        match ends {
            Ends::Never | Ends::Kept => {}
            Ends::At(at) => commands.push(&[b"PEXPIREAT", key, itoa::Buffer::new().format(at).as_bytes()]),
            Ends::In(within) => commands.push(&[b"PEXPIRE", key, itoa::Buffer::new().format(within).as_bytes()]),
        }
        Ok(())
    }

    fn set(&self, key: &Bytes, record: &Record, ends: Ends, commands: &mut Commands) -> Result<(), Rejection> {
        let value = self.value.render(record)?;
        let mut digits = itoa::Buffer::new();
        let mut words: Vec<&[u8]> = Vec::with_capacity(6);
        words.extend([&b"SET"[..], key, &value]);
        match ends {
            Ends::Never => {}
            Ends::Kept => words.push(b"KEEPTTL"),
            Ends::At(at) => words.extend([&b"PXAT"[..], digits.format(at).as_bytes()]),
            Ends::In(within) => words.extend([&b"PX"[..], digits.format(within).as_bytes()]),
        }
        words.extend(self.condition.word().map(str::as_bytes));
        commands.push(&words);
        Ok(())
    }

    fn conditional(&self, commands: &mut Commands, start: &[&[u8]], rest: &[&[u8]]) {
        let condition = self.condition.word().map(str::as_bytes);
        let words: Vec<&[u8]> = start.iter().copied().chain(condition).chain(rest.iter().copied()).collect();
        commands.push(&words);
    }

    fn hset(&self, key: &Bytes, record: &Record, commands: &mut Commands) -> Result<(), Rejection> {
        if let Some(field) = &self.field {
            commands.push(&[b"HSET", key, &field.render(record)?, &self.value.render(record)?]);
            return Ok(());
        }
        let fields = self.shape.fields(record)?;
        let mut present: Vec<&[u8]> = Vec::with_capacity(2 * fields.len());
        let mut absent: Vec<&[u8]> = Vec::new();
        for (name, value) in &fields {
            match value {
                Some(value) => present.extend([name.as_bytes(), value.as_bytes()]),
                None => absent.push(name.as_bytes()),
            }
        }
        push_in_parts(commands, [b"HSET", key], &present);
        push_in_parts(commands, [b"HDEL", key], &absent);
        Ok(())
    }

    fn xadd(&self, key: &Bytes, record: &Record, commands: &mut Commands) -> Result<(), Rejection> {
        let trim = self.trim.map(|trim| trim.to_string());
        let mut words: Vec<&[u8]> = vec![b"XADD", key];
        if let Some(trim) = &trim {
            words.extend([&b"MAXLEN"[..], b"~", trim.as_bytes()]);
        }
        words.push(b"*");
        if let Some(field) = &self.field {
            let (field, value) = (field.render(record)?, self.value.render(record)?);
            words.extend([&field[..], &value]);
            commands.push(&words);
            return Ok(());
        }
        let fields = self.shape.fields(record)?;
        let before = words.len();
        for (name, value) in &fields {
            if let Some(value) = value {
                words.extend([name.as_bytes(), value.as_bytes()]);
            }
        }
        if words.len() == before {
            return Err(Rejection::new("the value has no field that is not null, and a stream entry needs one"));
        }
        if words.len() > MOST_WORDS {
            let (found, most) = (fields.len(), (MOST_WORDS - before) / 2);
            return Err(Rejection::new(format!("the value has {found} fields; a stream entry can have {most}")));
        }
        commands.push(&words);
        Ok(())
    }

    fn tombstone(&self, key: Bytes, record: &Record) -> Result<Option<Op>, Rejection> {
        let mut commands = Commands::default();
        match self.command {
            Command::Publish | Command::SPublish => return Ok(None),
            Command::SAdd => commands.push(&[b"SREM", &key, &self.member.render(record)?]),
            Command::ZAdd | Command::GeoAdd => commands.push(&[b"ZREM", &key, &self.member.render(record)?]),
            Command::HSet if self.field.is_some() => {
                let field = self.field.as_ref().map(|field| field.render(record)).transpose()?;
                commands.push(&[b"HDEL", &key, &field.unwrap_or_default()]);
            }
            Command::HSet if self.hash_tombstone == HashTombstone::Fields => {
                let names: Vec<String> =
                    self.shape.fields.iter().flat_map(|fields| fields.iter()).map(ToString::to_string).collect();
                let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
                push_in_parts(&mut commands, [b"HDEL", &key], &names);
            }
            _ => return Ok(Some(Op { key, action: Action::Delete, expire_at: None })),
        }
        Ok(Some(Op { key, action: Action::Commands(commands.finish()), expire_at: None }))
    }
}

/// Adds as many commands as it takes to hand over all words. An even number at a time, for names go with their values.
fn push_in_parts(commands: &mut Commands, start: [&[u8]; 2], words: &[&[u8]]) {
    for part in words.chunks((MOST_WORDS - start.len()) / 2 * 2) {
        commands.push(&[&start, part].concat());
    }
}

/// Renders a template that must give a whole number. Redis takes no `+5` and no `007`, so it gets the number, not the text.
fn whole_number(template: &Template, record: &Record) -> Result<i64, Rejection> {
    let text = template.render(record)?;
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Rejection::new(format!("{template} is not a whole number of 64 bits")))
}

/// Renders a template that must give a number of a kind; Redis gets the digits as they are.
fn number(
    template: &Template,
    record: &Record,
    fits: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<Bytes, Rejection> {
    let text = template.render(record)?;
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<f64>().ok());
    let fits = parsed.is_some_and(fits);
    fits.then_some(text).ok_or_else(|| Rejection::new(format!("{template} is not {expected}")))
}
