//! Messages of the output plugin `pgoutput`, borrowed from the buffer that was read. Pure.
//!
//! Protocol versions 1 to 4 (<https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>), but for two-phase commit.

use crate::table::Cell;
use smallvec::SmallVec;
use std::fmt;

/// Microseconds between 1970-01-01 and 2000-01-01, from which Postgres counts.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// One row: 16 columns without an allocation.
pub type Tuple<'a> = SmallVec<[Cell<'a>; 16]>;

#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack: a box would be an allocation for each change")]
pub enum Message<'a> {
    Begin {
        /// Where the commit record starts.
        final_lsn: u64,
        /// Microseconds since 1970.
        time: i64,
        xid: u32,
    },
    Commit {
        lsn: u64,
        /// Where the next record may start: what is confirmed.
        end_lsn: u64,
        /// Microseconds since 1970.
        time: i64,
    },
    Origin {
        /// Of the commit there.
        lsn: u64,
        name: &'a str,
    },
    Relation(Relation<'a>),
    Type {
        oid: u32,
    },
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Old<'a>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: SmallVec<[u32; 4]>,
        cascade: bool,
        restart_identity: bool,
    },
    /// Of `pg_logical_emit_message`.
    Logical {
        transactional: bool,
        lsn: u64,
        prefix: &'a str,
        content: &'a [u8],
    },
    StreamStart {
        xid: u32,
        first: bool,
    },
    StreamStop,
    StreamCommit {
        xid: u32,
        end_lsn: u64,
        time: i64,
    },
    StreamAbort {
        xid: u32,
        subxid: u32,
    },
}

/// What an update or a delete says of the row as it was.
#[derive(Debug, PartialEq)]
pub enum Old<'a> {
    None,
    /// The columns of the replica identity; the others are null.
    Key(Tuple<'a>),
    Full(Tuple<'a>),
}

#[derive(Debug, PartialEq)]
pub struct Relation<'a> {
    pub oid: u32,
    /// Empty for `pg_catalog`.
    pub schema: &'a str,
    pub name: &'a str,
    /// `pg_class.relreplident`
    pub identity: u8,
    pub columns: Vec<RelationColumn<'a>>,
}

#[derive(Debug, PartialEq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    pub name: &'a str,
    pub type_oid: u32,
    pub modifier: i32,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    Short,
    Text,
    /// A tag that no version up to 4 has.
    Unknown(u8),
    /// Binary values: never asked for.
    Binary,
    TwoPhase,
    Trailing,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Short => f.write_str("a message of pgoutput ends too early"),
            Malformed::Text => f.write_str("a name in a message of pgoutput is not UTF-8"),
            Malformed::Unknown(tag) => write!(f, "a message of pgoutput has the unknown tag 0x{tag:02x}"),
            Malformed::Binary => f.write_str("pgoutput sent a value in binary form, which was not asked for"),
            Malformed::TwoPhase => f.write_str("pgoutput sent a message of two-phase commit"),
            Malformed::Trailing => f.write_str("a message of pgoutput has bytes behind its end"),
        }
    }
}

type Result<T> = std::result::Result<T, Malformed>;

/// Reads one message. `streamed`: it stands between a stream start and stop (protocol 2 and later), where changes carry their transaction.
///
/// # Errors
/// Never panics, whatever the bytes.
pub fn decode(bytes: &[u8], streamed: bool) -> Result<Message<'_>> {
    let mut input = Input { rest: bytes };
    let tag = input.u8()?;
    if streamed && matches!(tag, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M') {
        input.u32()?;
    }
    let message = match tag {
        b'B' => Message::Begin { final_lsn: input.u64()?, time: input.time()?, xid: input.u32()? },
        b'C' => {
            input.u8()?;
            Message::Commit { lsn: input.u64()?, end_lsn: input.u64()?, time: input.time()? }
        }
        b'O' => {
            let lsn = input.u64()?;
            Message::Origin { lsn, name: input.text()? }
        }
        b'R' => Message::Relation(relation(&mut input)?),
        b'Y' => {
            let oid = input.u32()?;
            input.text()?;
            input.text()?;
            Message::Type { oid }
        }
        b'I' => {
            let relation = input.u32()?;
            input.expect(b'N')?;
            Message::Insert { relation, new: tuple(&mut input)? }
        }
        b'U' => update(&mut input)?,
        b'D' => {
            let relation = input.u32()?;
            let old = match input.u8()? {
                b'K' => Old::Key(tuple(&mut input)?),
                b'O' => Old::Full(tuple(&mut input)?),
                other => return Err(Malformed::Unknown(other)),
            };
            Message::Delete { relation, old }
        }
        b'T' => {
            let (count, options) = (input.u32()?, input.u8()?);
            let mut relations = SmallVec::new();
            for _ in 0..count {
                relations.push(input.u32()?);
            }
            Message::Truncate { relations, cascade: options & 1 != 0, restart_identity: options & 2 != 0 }
        }
        b'M' => {
            let (flags, lsn, prefix) = (input.u8()?, input.u64()?, input.text()?);
            let len = input.u32()? as usize;
            Message::Logical { transactional: flags & 1 != 0, lsn, prefix, content: input.take(len)? }
        }
        b'S' => Message::StreamStart { xid: input.u32()?, first: input.u8()? == 1 },
        b'E' => Message::StreamStop,
        b'c' => {
            let xid = input.u32()?;
            input.u8()?;
            input.u64()?;
            Message::StreamCommit { xid, end_lsn: input.u64()?, time: input.time()? }
        }
        b'A' => {
            let message = Message::StreamAbort { xid: input.u32()?, subxid: input.u32()? };
            // Version 4 with `streaming 'parallel'` adds the abort's LSN and time.
            input.rest = &[];
            message
        }
        b'b' | b'P' | b'K' | b'r' | b'p' => return Err(Malformed::TwoPhase),
        other => return Err(Malformed::Unknown(other)),
    };
    if input.rest.is_empty() { Ok(message) } else { Err(Malformed::Trailing) }
}

fn update<'a>(input: &mut Input<'a>) -> Result<Message<'a>> {
    let relation = input.u32()?;
    let mut tag = input.u8()?;
    let mut old = Old::None;
    if tag == b'K' || tag == b'O' {
        let row = tuple(input)?;
        old = if tag == b'K' { Old::Key(row) } else { Old::Full(row) };
        tag = input.u8()?;
    }
    if tag != b'N' {
        return Err(Malformed::Unknown(tag));
    }
    Ok(Message::Update { relation, old, new: tuple(input)? })
}

fn relation<'a>(input: &mut Input<'a>) -> Result<Relation<'a>> {
    let (oid, schema, name, identity) = (input.u32()?, input.text()?, input.text()?, input.u8()?);
    let count = input.u16()?;
    let mut columns = Vec::with_capacity(usize::from(count).min(1600));
    for _ in 0..count {
        let (flags, name, type_oid, modifier) = (input.u8()?, input.text()?, input.u32()?, input.u32()?);
        columns.push(RelationColumn { key: flags & 1 != 0, name, type_oid, modifier: modifier.cast_signed() });
    }
    Ok(Relation { oid, schema, name, identity, columns })
}

fn tuple<'a>(input: &mut Input<'a>) -> Result<Tuple<'a>> {
    let count = input.u16()?;
    // A table has at most 1,600 columns; a wrong count must not reserve much.
    let mut cells = Tuple::with_capacity(usize::from(count).min(1600));
    for _ in 0..count {
        cells.push(match input.u8()? {
            b'n' => Cell::Null,
            b'u' => Cell::Unchanged,
            b't' => {
                let len = input.u32()? as usize;
                Cell::Text(input.take(len)?)
            }
            b'b' => return Err(Malformed::Binary),
            other => return Err(Malformed::Unknown(other)),
        });
    }
    Ok(cells)
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Result<i64> {
        self.array().map(|bytes| i64::from_be_bytes(bytes).saturating_add(POSTGRES_EPOCH_MICROS))
    }

    fn text(&mut self) -> Result<&'a str> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed::Short)?;
        let text = std::str::from_utf8(self.take(end)?).map_err(|_| Malformed::Text)?;
        self.u8()?;
        Ok(text)
    }

    fn expect(&mut self, tag: u8) -> Result<()> {
        match self.u8()? {
            found if found == tag => Ok(()),
            found => Err(Malformed::Unknown(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest encoder that can say what the tests want to hear back.
    #[derive(Default)]
    struct Output(Vec<u8>);

    impl Output {
        fn tag(tag: u8) -> Self {
            Self(vec![tag])
        }
        fn put(mut self, bytes: &[u8]) -> Self {
            self.0.extend_from_slice(bytes);
            self
        }
        fn u32(self, number: u32) -> Self {
            self.put(&number.to_be_bytes())
        }
        fn u64(self, number: u64) -> Self {
            self.put(&number.to_be_bytes())
        }
        fn text(self, text: &str) -> Self {
            self.put(text.as_bytes()).put(&[0])
        }
        fn tuple(mut self, cells: &[Option<Option<Vec<u8>>>]) -> Self {
            self = self.put(&(cells.len() as u16).to_be_bytes());
            for cell in cells {
                self = match cell {
                    None => self.put(b"u"),
                    Some(None) => self.put(b"n"),
                    Some(Some(text)) => self.put(b"t").u32(text.len() as u32).put(text),
                };
            }
            self
        }
    }

    /// `None`: unchanged, `Some(None)`: null.
    type Row = Vec<Option<Option<Vec<u8>>>>;

    fn cells(row: &Row) -> Tuple<'_> {
        row.iter()
            .map(|cell| match cell {
                None => Cell::Unchanged,
                Some(None) => Cell::Null,
                Some(Some(text)) => Cell::Text(text),
            })
            .collect()
    }

    fn row() -> impl Strategy<Value = Row> {
        let text = proptest::collection::vec(any::<u8>(), 0..40);
        proptest::collection::vec(proptest::option::of(proptest::option::of(text)), 0..30)
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), streamed: bool) {
            let _ = decode(&bytes, streamed);
        }

        #[test]
        fn any_tail_of_a_known_tag_is_a_message_or_an_error(
            tag in proptest::sample::select(b"BCORYIUDTMSEcAbPKrp".to_vec()),
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'N'), Just(b'K'), Just(b't'), any::<u8>()], 0..80),
        ) {
            let _ = decode(&[vec![tag], bytes].concat(), false);
        }

        #[test]
        fn rows_come_back(old in row(), new in row(), relation: u32, xid: u32) {
            let insert = Output::tag(b'I').u32(relation).put(b"N").tuple(&new).0;
            prop_assert_eq!(decode(&insert, false), Ok(Message::Insert { relation, new: cells(&new) }));
            let streamed = Output::tag(b'I').u32(xid).u32(relation).put(b"N").tuple(&new).0;
            prop_assert_eq!(decode(&streamed, true), Ok(Message::Insert { relation, new: cells(&new) }));
            let full = Output::tag(b'U').u32(relation).put(b"O").tuple(&old).put(b"N").tuple(&new).0;
            prop_assert_eq!(decode(&full, false), Ok(Message::Update { relation, old: Old::Full(cells(&old)), new: cells(&new) }));
            let plain = Output::tag(b'U').u32(relation).put(b"N").tuple(&new).0;
            prop_assert_eq!(decode(&plain, false), Ok(Message::Update { relation, old: Old::None, new: cells(&new) }));
            let delete = Output::tag(b'D').u32(relation).put(b"K").tuple(&old).0;
            prop_assert_eq!(decode(&delete, false), Ok(Message::Delete { relation, old: Old::Key(cells(&old)) }));
            prop_assert_eq!(decode(&insert[..insert.len() - 1], false), Err(Malformed::Short));
        }
    }

    #[test]
    fn the_other_messages() {
        let time = |micros: u64| micros - POSTGRES_EPOCH_MICROS as u64;
        let begin = Output::tag(b'B').u64(0x10).u64(time(1_700_000_000_000_001)).u32(7).0;
        assert_eq!(decode(&begin, false), Ok(Message::Begin { final_lsn: 0x10, time: 1_700_000_000_000_001, xid: 7 }));
        let commit = Output::tag(b'C').put(&[0]).u64(0x10).u64(0x20).u64(time(5_000_000_000_000_000)).0;
        assert_eq!(decode(&commit, false), Ok(Message::Commit { lsn: 0x10, end_lsn: 0x20, time: 5_000_000_000_000_000 }));
        let relation =
            Output::tag(b'R').u32(5).text("public").text("käse").put(b"d\0\x01\x01").text("id").u32(23).u32(u32::MAX).0;
        let Ok(Message::Relation(relation)) = decode(&relation, false) else { panic!() };
        assert_eq!((relation.name, relation.identity, relation.columns.len()), ("käse", b'd', 1));
        assert_eq!(relation.columns[0], RelationColumn { key: true, name: "id", type_oid: 23, modifier: -1 });
        let truncate = Output::tag(b'T').u32(2).put(&[3]).u32(5).u32(6).0;
        let expected = Message::Truncate { relations: [5, 6].into_iter().collect(), cascade: true, restart_identity: true };
        assert_eq!(decode(&truncate, false), Ok(expected));
        let logical = Output::tag(b'M').put(&[1]).u64(9).text("p").u32(3).put(b"abc").0;
        assert_eq!(decode(&logical, false), Ok(Message::Logical { transactional: true, lsn: 9, prefix: "p", content: b"abc" }));
        let abort = Output::tag(b'A').u32(1).u32(2).u64(3).u64(4).0;
        assert_eq!(decode(&abort, false), Ok(Message::StreamAbort { xid: 1, subxid: 2 }));
        for tag in *b"bPKrp" {
            assert_eq!(decode(&[tag], false), Err(Malformed::TwoPhase));
        }
        assert_eq!(decode(&[begin, vec![0]].concat(), false), Err(Malformed::Trailing));
    }
}
