//! Which names belong to one log: `app.log`, `app.log.1`, `app.log-20260101.gz`.

use super::identity::fnv;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const SEPARATORS: [char; 4] = ['.', '-', '_', '~'];

/// What logrotate, log4j and their like put behind a name: numbers, dates, `old`, and what a compressor adds.
fn is_rotation(suffix: &str) -> bool {
    let known = ["old", "bak", "prev", "gz", "gzip", "zst", "zstd", "z"];
    suffix.split(SEPARATORS).all(|part| part.bytes().all(|byte| byte.is_ascii_digit()) || known.contains(&part))
}

/// The names that the file at `path` may have had before it was rotated, shortest first.
pub(crate) fn bases(path: &Path) -> impl Iterator<Item = &str> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let separators = name.char_indices().skip(1).filter(|(_, char)| SEPARATORS.contains(char));
    separators.filter(|(at, _)| is_rotation(&name[at + 1..])).map(|(at, _)| &name[..at])
}

/// The task that has the file: one for all that were rotated from one path, since a copy is known only to who read the original, and what was
/// written first is to be read first (invariant 3). Nothing of it is stored, so it may change.
pub(crate) fn share(path: &Path, tasks: u64) -> u64 {
    let base = bases(path).next().map(|base| path.with_file_name(base));
    let hash = fnv(base.as_deref().unwrap_or(path).as_os_str().as_bytes());
    // FNV's low bits know little of the text: for two tasks only the parity of each byte.
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ (mixed >> 33)) % tasks.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_of_rotation() {
        for suffix in ["1", "2.gz", "20260101", "2026-01-01", "20260101-1700000000.zst", "old", "", "1~"] {
            assert!(is_rotation(suffix), "{suffix}");
        }
        for suffix in ["log", "ng.log", "1.log", "txt"] {
            assert!(!is_rotation(suffix), "{suffix}");
        }
    }

    #[test]
    fn a_family_has_one_task_whatever_is_put_behind_its_name() {
        for base in ["app.log", "app-1", "2026-01-01.log", "a.b-c_7.log", "x"] {
            let path = Path::new("/var/log").join(base);
            for suffix in [".1", "-20260101", ".2.gz", ".old", "~", "_3.1.zst"] {
                let rotated = path.with_file_name(format!("{base}{suffix}"));
                assert!((2..9).all(|tasks| share(&path, tasks) == share(&rotated, tasks)), "{rotated:?}");
            }
        }
        let counts = (0..1000).fold([0; 4], |mut counts, n| {
            counts[share(Path::new(&format!("/var/log/{}.log", 2 * n)), 4) as usize] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (200..300).contains(count)), "{counts:?}");
    }
}
