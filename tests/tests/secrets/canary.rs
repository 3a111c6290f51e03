//! Texts that must not be seen, and the forms in which they could be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// How a secret comes into a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As it is: `GET …/config` shows what was put, here as in Kafka Connect, and nothing else does.
    Literal,
    Env,
    File,
}

pub const WAYS: [Way; 3] = [Way::Literal, Way::Env, Way::File];

/// Every canary begins with one of these.
const LITERAL: &str = "l1t3ralcanary";
const REFERENCED: &str = "r3f3rredcanary";

/// The secret of one case, of the sort that `way` wants: one in a variable has what texts escape, one in a file is longer than what errors show of an
/// answer, so that a part of it would be left where texts are cut before they are cleaned.
pub fn canary(number: usize, way: Way) -> String {
    match way {
        Way::Literal => format!("{LITERAL}{number:04}"),
        Way::Env => format!("{REFERENCED}{number:04}&/+%"),
        Way::File => (0..24).map(|_| format!("{REFERENCED}{number:04}")).collect::<Vec<_>>().join("-"),
    }
}

/// What is looked for.
pub struct Forms(Vec<String>);

impl Forms {
    pub fn of_references() -> Self {
        Self(forms(REFERENCED))
    }

    pub fn of_all() -> Self {
        Self([forms(LITERAL), forms(REFERENCED)].concat())
    }

    /// What stands around a canary, if there is one.
    pub fn find(&self, text: &str) -> Option<String> {
        let at = self.0.iter().filter_map(|form| text.find(form.as_str())).min()?;
        let from = text.floor_char_boundary(at.saturating_sub(200));
        Some(text[from..text.ceil_char_boundary((at + 120).min(text.len()))].to_owned())
    }
}

/// As it is, in hexadecimal, and in base64 wherever in a longer text it may stand: without the characters that the bytes around it have a part in.
fn forms(stem: &str) -> Vec<String> {
    let hex: String = stem.bytes().map(|byte| format!("{byte:02x}")).collect();
    let at = |before: usize| {
        let bytes = [&[0; 2][..before], stem.as_bytes()].concat();
        STANDARD_NO_PAD.encode(&bytes)[(before * 8).div_ceil(6)..bytes.len() * 8 / 6].to_owned()
    };
    let mut forms: Vec<String> = (0..3).map(at).collect();
    forms.extend([stem.to_owned(), hex.to_uppercase(), hex]);
    forms
}

#[test]
fn canaries_are_found_in_every_form() {
    for way in WAYS {
        for user in ["u", "us", "usr"] {
            let basic = STANDARD_NO_PAD.encode(format!("{user}:{}", canary(7, way)));
            assert!(Forms::of_all().find(&format!("Authorization: Basic {basic}")).is_some(), "{way:?} {user}");
        }
        assert!(Forms::of_all().find(&canary(7, way)).is_some());
        assert_eq!(Forms::of_references().find(&canary(7, way)).is_some(), way != Way::Literal);
    }
    assert!(Forms::of_all().find("l1t3ral canary r3f3rred").is_none());
}
