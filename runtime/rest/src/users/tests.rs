use super::*;
use crate::Role;
use std::os::unix::fs::PermissionsExt;

fn file(dir: &Path, lines: &[String]) -> PathBuf {
    let path = dir.join("users");
    // As an editor does: a new file takes the place of the old one.
    let new = dir.join("users.new");
    std::fs::write(&new, lines.join("\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, &path).unwrap();
    path
}

fn basic(name: &str, password: &str) -> HeaderValue {
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))).unwrap()
}

async fn status(users: &Users, header: Option<&HeaderValue>, from: &str) -> u16 {
    let peer = Peer { address: Some(from.parse().unwrap()), ..Peer::default() };
    match users.caller(header, &peer).await {
        Ok(_) => 200,
        Err(refusal) => refusal.into_response().status().as_u16(),
    }
}

#[tokio::test]
async fn passwords_and_tokens_let_in_and_what_is_wrong_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (token_line, token) = token_line("ci", Role::Admin, "").unwrap();
    let path = file(dir.path(), &[password_line("ann", "correct: horse", Role::Read, "").unwrap(), token_line]);
    let users = Users::open(&path).unwrap();
    let bearer = |token: &str| HeaderValue::try_from(format!("bearer {token}")).unwrap();
    for (header, expected) in [
        (None, 401),
        (Some(basic("ann", "correct: horse")), 200),
        (Some(basic("ann", "correct: horse")), 200),
        (Some(basic("ann", "correct: horsf")), 401),
        (Some(basic("bob", "correct: horse")), 401),
        (Some(basic("ci", &token)), 401),
        (Some(bearer(&token)), 200),
        (Some(bearer(&format!("{token}x"))), 401),
        (Some(bearer("")), 401),
        (Some(HeaderValue::from_static("Basic !!")), 401),
        (Some(HeaderValue::from_static("Negotiate abc")), 401),
    ] {
        assert_eq!(status(&users, header.as_ref(), "10.0.0.1:1").await, expected, "{header:?}");
    }
    assert_eq!(users.loaded.load().verified.lock().len(), 1);
}

#[tokio::test]
async fn who_guesses_waits_though_the_password_is_right_at_last() {
    let dir = tempfile::tempdir().unwrap();
    let (token_line, token) = token_line("ci", Role::Read, "").unwrap();
    let path = file(dir.path(), &[password_line("ann", "correct horse", Role::Read, "").unwrap(), token_line]);
    let users = Users::open(&path).unwrap();
    // The longest wait there is, without waiting for it: many failures at once.
    for _ in 0..40 {
        users.failures.failed(Some("10.0.0.1".parse().unwrap()), "ann", Instant::now());
    }
    assert_eq!(status(&users, Some(&basic("ann", "correct horse")), "10.0.0.1:9").await, 429);
    assert_eq!(status(&users, Some(&basic("ann", "correct horse")), "10.0.0.2:9").await, 200);
    let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    assert_eq!(status(&users, Some(&bearer), "10.0.0.1:9").await, 200);
    let peer = Peer { address: Some("10.0.0.1:1".parse().unwrap()), ..Peer::default() };
    let answer = users.caller(Some(&basic("ann", "x")), &peer).await.err().unwrap().into_response();
    assert!(answer.headers()[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() > 100);
}

#[tokio::test]
async fn a_change_of_the_file_counts_and_a_broken_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &[password_line("ann", "correct horse", Role::Read, "").unwrap()]);
    let users = Users::open(&path).unwrap();
    let ann = basic("ann", "correct horse");
    assert_eq!(status(&users, Some(&ann), "10.0.0.1:1").await, 200);
    let again = || *users.looked.lock() = Instant::now().checked_sub(LOOK_EVERY).unwrap();
    file(dir.path(), &["nonsense".to_owned()]);
    again();
    assert_eq!(status(&users, Some(&ann), "10.0.0.1:1").await, 200);
    file(dir.path(), &[password_line("bob", "battery staple", Role::Read, "").unwrap()]);
    again();
    assert_eq!(status(&users, Some(&ann), "10.0.0.1:1").await, 401);
    assert_eq!(status(&users, Some(&basic("bob", "battery staple")), "10.0.0.1:1").await, 200);
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &[token_line("ci", Role::Read, "").unwrap().0]);
    for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o602, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        match Users::open(&path) {
            Ok(_) => assert!(good, "{mode:o}"),
            Err(error) => {
                assert!(!good && error.code() == "rest.users" && error.hint().unwrap().contains("chmod 600"), "{error}")
            }
        }
    }
    assert!(Users::open(&dir.path().join("nothing")).err().unwrap().hint().unwrap().contains("rest-user"));
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Users::open(&path).err().unwrap().to_string().contains("no user"));
}
