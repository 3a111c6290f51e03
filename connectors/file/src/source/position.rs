//! How far a file was read, and its JSON in the offset store.

use super::identity::FileId;
use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Just behind the last emitted record: always the start of a line (or, with `skip`, the inside of a line whose rest is thrown away).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Position {
    /// In bytes of the content (of a compressed file: decompressed).
    pub(crate) offset: u64,
    /// Hash of the up to 64 bytes before `offset`; `None` in offsets of Kafka Connect.
    pub(crate) anchor: Option<u64>,
    /// Lines before `offset`.
    pub(crate) line: u64,
    /// Counts the truncations.
    pub(crate) generation: u64,
    pub(crate) skip: bool,
    /// Offsets are of the decompressed content: they say nothing of the size.
    pub(crate) compressed: bool,
    pub(crate) head: u64,
    /// How many bytes `head` covers.
    pub(crate) head_len: u64,
    /// Read to its end, and nothing more is expected.
    pub(crate) done: bool,
}

/// A file as an offset remembers it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Remembered {
    pub(crate) id: Option<FileId>,
    pub(crate) at: Position,
    /// The position before the last truncation, as long as no copy of that content was found.
    pub(crate) former: Option<Position>,
    /// Of the file on disk, in bytes.
    pub(crate) size: u64,
    /// Nanoseconds since the epoch.
    pub(crate) modified: i64,
    /// Milliseconds since the epoch when it was found to be gone.
    pub(crate) gone: Option<i64>,
}

impl Remembered {
    pub(crate) fn to_json(&self) -> JsonMap {
        let mut map = JsonMap::new();
        // First, as FileStreamSource has it: the only field that it reads.
        map.insert("position".into(), json!(self.at.offset));
        if let Some(id) = self.id {
            map.insert("dev".into(), json!(id.dev));
            map.insert("ino".into(), json!(id.ino));
            map.insert("btime".into(), json!(id.born));
        }
        map.insert("head".into(), json!(format!("{:016x}", self.at.head)));
        map.insert("head.len".into(), json!(self.at.head_len));
        if let Some(anchor) = self.at.anchor {
            map.insert("anchor".into(), json!(format!("{anchor:016x}")));
        }
        map.insert("line".into(), json!(self.at.line));
        map.insert("generation".into(), json!(self.at.generation));
        map.insert("size".into(), json!(self.size));
        map.insert("mtime".into(), json!(self.modified));
        if let Some(former) = &self.former {
            let former = Self { id: None, at: former.clone(), former: None, size: 0, modified: 0, gone: None };
            map.insert("former".into(), Value::Object(former.to_json()));
        }
        if let Some(gone) = self.gone {
            map.insert("gone".into(), json!(gone));
        }
        for (name, flag) in [("skip", self.at.skip), ("compressed", self.at.compressed), ("done", self.at.done)] {
            if flag {
                map.insert(name.into(), json!(true));
            }
        }
        map
    }

    /// `None` when it has no position: not an offset of ours nor of FileStreamSource.
    pub(crate) fn from_json(map: &JsonMap) -> Option<Self> {
        let number = |name: &str| map.get(name).and_then(Value::as_u64);
        let hash = |name: &str| map.get(name).and_then(Value::as_str).and_then(|text| u64::from_str_radix(text, 16).ok());
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        let offset = number("position")?;
        let id = number("dev").zip(number("ino"));
        let head = hash("head").zip(number("head.len")).unwrap_or_default();
        Some(Self {
            id: id.map(|(dev, ino)| FileId { dev, ino, born: map.get("btime").and_then(Value::as_i64) }),
            at: Position {
                offset,
                anchor: hash("anchor"),
                line: number("line").unwrap_or_default(),
                generation: number("generation").unwrap_or_default(),
                skip: flag("skip"),
                compressed: flag("compressed"),
                head: head.0,
                head_len: head.1,
                done: flag("done"),
            },
            former: map.get("former").and_then(Value::as_object).and_then(Self::from_json).map(|former| former.at),
            size: number("size").unwrap_or(offset),
            modified: map.get("mtime").and_then(Value::as_i64).unwrap_or_default(),
            gone: map.get("gone").and_then(Value::as_i64),
        })
    }
}

/// The partition of one literal path: that of FileStreamSource.
pub(crate) fn literal_partition(path: &Path) -> JsonMap {
    [("filename".to_owned(), json!(path.to_string_lossy()))].into_iter().collect()
}

/// The partition of one file that a glob found: the path where it was first seen, and what it was then.
pub(crate) fn file_partition(path: &Path, id: FileId) -> JsonMap {
    [("filename".to_owned(), json!(path.to_string_lossy())), ("id".to_owned(), json!(id.text()))].into_iter().collect()
}

/// Everything stored for one path or file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) partition: JsonMap,
    pub(crate) filename: PathBuf,
    /// Of a glob's file: what it was when it was first seen; its share goes by this.
    pub(crate) first_id: Option<FileId>,
    /// In the order in which they are to be read; the last is the one at the path.
    pub(crate) chain: Vec<Remembered>,
}

impl Stored {
    pub(crate) fn parse(stored: &SourceOffset) -> Option<Self> {
        let offset = stored.offset.as_ref()?;
        let text = |name: &str| stored.partition.get(name).and_then(Value::as_str);
        let filename = PathBuf::from(text("filename")?);
        let pending = offset.get("pending").and_then(Value::as_array).into_iter().flatten();
        let mut chain: Vec<_> = pending.filter_map(Value::as_object).filter_map(Remembered::from_json).collect();
        chain.push(Remembered::from_json(offset)?);
        Some(Self { partition: stored.partition.clone(), filename, first_id: text("id").and_then(FileId::parse), chain })
    }
}

/// What FileStreamSource's `alterOffsets` refuses.
pub(crate) fn check(offset: &SourceOffset) -> Result<()> {
    let refuse = |why: &str| Err(Error::fatal("file.offset", why));
    let position = offset.offset.as_ref().and_then(|offset| offset.get("position"));
    match (offset.partition.get("filename"), position) {
        (None, _) => refuse("Partition objects should contain the key 'filename'"),
        (Some(name), _) if !name.is_string() => {
            refuse("The value for the 'filename' key in the partition is expected to be a text")
        }
        (_, None) => refuse("Offset objects should either be null or contain the key 'position'"),
        (_, Some(position)) if position.as_i64().is_some_and(|position| position < 0) => {
            refuse("The value for the 'position' key in the offset should be non-negative")
        }
        (_, Some(position)) if !position.is_u64() => {
            refuse("The value for the 'position' key in the offset is expected to be a Long value")
        }
        _ => Ok(()),
    }
}

/// The offset of a path whose renamed predecessors are not finished yet carries them in `pending`.
pub(crate) fn chain_json(chain: &[Remembered]) -> Option<JsonMap> {
    let (last, pending) = chain.split_last()?;
    let mut map = last.to_json();
    if !pending.is_empty() {
        map.insert("pending".into(), pending.iter().map(|file| Value::Object(file.to_json())).collect());
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_survive_the_store() {
        let id = FileId { dev: 1, ino: u64::MAX, born: Some(1_700_000_000_123_456_789) };
        let at = Position {
            offset: 7,
            anchor: Some(0xfe),
            line: 3,
            generation: 1,
            skip: true,
            compressed: true,
            head: u64::MAX,
            head_len: 5,
            done: true,
        };
        let one = Remembered { id: Some(id), former: Some(at.clone()), at, size: 9, modified: -3, gone: Some(8) };
        let two = Remembered { id: None, at: Position::default(), former: None, size: 0, modified: 0, gone: None };
        let offset = chain_json(&[one.clone(), two.clone()]).unwrap();
        assert_eq!(offset.keys().next().unwrap(), "position");
        let text = serde_json::to_string(&offset).unwrap();
        let stored =
            SourceOffset { partition: literal_partition(Path::new("/a")), offset: Some(serde_json::from_str(&text).unwrap()) };
        assert_eq!(Stored::parse(&stored).unwrap().chain, [one, two]);
    }

    #[test]
    fn an_offset_that_is_none_is_refused() {
        let check = |partition: Value, offset: Value| {
            let map = |value: Value| value.as_object().cloned().unwrap_or_default();
            check(&SourceOffset { partition: map(partition), offset: Some(map(offset)) })
                .map_err(|error| error.message().to_owned())
        };
        let at = || json!({"filename": "/a"});
        assert_eq!(check(at(), json!({"position": 4, "line": 1})), Ok(()));
        for (partition, offset, says) in [
            (json!({"file": "/a"}), json!({"position": 4}), "key 'filename'"),
            (json!({"filename": 4}), json!({"position": 4}), "to be a text"),
            (at(), json!({"offset": 4}), "key 'position'"),
            (at(), json!({"position": "four"}), "a Long value"),
            (at(), json!({"position": 4.5}), "a Long value"),
            (at(), json!({"position": -4}), "non-negative"),
        ] {
            let found = check(partition, offset).unwrap_err();
            assert!(found.contains(says), "{found}");
        }
    }

    #[test]
    fn an_offset_of_kafka_connect_is_taken_over() {
        let offset = serde_json::from_str(r#"{"position": 42}"#).unwrap();
        let stored = SourceOffset { partition: literal_partition(Path::new("/a")), offset: Some(offset) };
        let last = Stored::parse(&stored).unwrap().chain.pop().unwrap();
        assert_eq!((last.at.offset, last.id, last.at.anchor), (42, None, None));
    }
}
