//! Rows of `COPY … TO STDOUT` in text form, taken apart where they lie. Pure.

use crate::table::Cell;
use aqueduct_core::{Error, Result};
use memchr::{memchr, memchr_iter};
use smallvec::SmallVec;
use std::ops::Range;

/// Where the cells of one row are; `None` is NULL.
pub type Places = Vec<Option<Range<usize>>>;

/// Takes the row that begins at `start` apart, and removes its escapes in place (what is unescaped is never longer). Returns where the next begins.
///
/// # Errors
/// When the row has another number of cells than `columns`, or does not end.
pub fn row(bytes: &mut [u8], start: usize, columns: usize, places: &mut Places) -> Result<usize> {
    places.clear();
    let end = memchr(b'\n', &bytes[start..]).ok_or_else(|| malformed("a row does not end"))? + start;
    if memchr(b'\\', &bytes[start..end]).is_none() {
        let mut from = start;
        for tab in memchr_iter(b'\t', &bytes[start..end]) {
            places.push(Some(from..start + tab));
            from = start + tab + 1;
        }
        places.push(Some(from..end));
    } else {
        let mut from = start;
        while from <= end {
            let to = memchr(b'\t', &bytes[from..end]).map_or(end, |tab| from + tab);
            places.push(unescape(bytes, from..to));
            from = to + 1;
        }
    }
    // A table without columns has empty rows.
    if columns == 0 && start == end {
        places.clear();
    }
    if places.len() != columns {
        return Err(malformed(&format!("a row has {} cells where {columns} were selected", places.len())));
    }
    Ok(end + 1)
}

/// A tab or a line end within a value is always escaped, so what is left to do is one field.
fn unescape(bytes: &mut [u8], field: Range<usize>) -> Option<Range<usize>> {
    if &bytes[field.clone()] == b"\\N" {
        return None;
    }
    let Some(first) = memchr(b'\\', &bytes[field.clone()]) else { return Some(field) };
    let (mut read, mut write) = (field.start + first, field.start + first);
    while read < field.end {
        let byte = match bytes[read] {
            b'\\' if read + 1 < field.end => {
                read += 1;
                match bytes[read] {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 0x0b,
                    other => other,
                }
            }
            byte => byte,
        };
        bytes[write] = byte;
        read += 1;
        write += 1;
    }
    Some(field.start..write)
}

/// The cells of a row that was taken apart; 16 without an allocation.
pub fn cells<'a>(bytes: &'a [u8], places: &[Option<Range<usize>>]) -> SmallVec<[Cell<'a>; 16]> {
    let cell = |place: &Option<Range<usize>>| place.clone().map_or(Cell::Null, |place| Cell::Text(&bytes[place]));
    places.iter().map(cell).collect()
}

fn malformed(what: &str) -> Error {
    Error::retriable("postgres.protocol", format!("{what} in the answer to COPY"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As `CopyAttributeOutText` does it.
    fn escape(value: Option<&[u8]>) -> Vec<u8> {
        let Some(value) = value else { return b"\\N".to_vec() };
        let mut out = Vec::new();
        for byte in value {
            match byte {
                0x08 => out.extend(b"\\b"),
                0x0c => out.extend(b"\\f"),
                b'\n' => out.extend(b"\\n"),
                b'\r' => out.extend(b"\\r"),
                b'\t' => out.extend(b"\\t"),
                0x0b => out.extend(b"\\v"),
                b'\\' => out.extend(b"\\\\"),
                other => out.push(*other),
            }
        }
        out
    }

    fn read(bytes: &mut [u8], columns: usize) -> Vec<Vec<Option<Vec<u8>>>> {
        let (mut at, mut places, mut rows) = (0, Places::new(), Vec::new());
        while at < bytes.len() {
            at = row(bytes, at, columns, &mut places).unwrap();
            rows.push(places.iter().map(|place| place.clone().map(|place| bytes[place].to_vec())).collect());
        }
        rows
    }

    proptest! {
        #[test]
        fn rows_come_out_as_they_went_in(rows in (1usize..5).prop_flat_map(|columns| {
            let cell = proptest::option::of(proptest::collection::vec(prop_oneof![
                proptest::sample::select(b"\\\n\t\rNbfv\x08\x0c\x0b".to_vec()), any::<u8>()], 0..12));
            proptest::collection::vec(proptest::collection::vec(cell, columns), 0..6)
        })) {
            let mut bytes = Vec::new();
            for row in &rows {
                bytes.extend(row.iter().map(|cell| escape(cell.as_deref())).collect::<Vec<_>>().join(&b'\t'));
                bytes.push(b'\n');
            }
            let columns = rows.first().map_or(1, Vec::len);
            prop_assert_eq!(read(&mut bytes, columns), rows);
        }

        #[test]
        fn foreign_bytes_are_an_error_at_most(mut bytes in proptest::collection::vec(any::<u8>(), 0..40), columns in 0usize..4) {
            let mut places = Places::new();
            if let Ok(next) = row(&mut bytes, 0, columns, &mut places) {
                prop_assert!(next <= bytes.len() && places.len() == columns);
            }
        }
    }

    #[test]
    fn a_row_of_another_width_is_an_error() {
        let mut places = Places::new();
        assert_eq!(row(&mut b"a\tb\n".to_vec(), 0, 3, &mut places).unwrap_err().code(), "postgres.protocol");
        assert_eq!(row(&mut b"a\tb".to_vec(), 0, 2, &mut places).unwrap_err().code(), "postgres.protocol");
        assert_eq!(read(b"\n\n".to_vec().as_mut_slice(), 0).len(), 2);
    }
}
