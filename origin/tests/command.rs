//! The real program: configuration, keys, tokens, and the example files of `deploy/`.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::path::Path;
use std::process::{Command, Stdio};

use stentor_proto::token::{Signer, Verifier, private_pem};
use stentor_proto::wire::Role;
use stentor_relay::cli::Flags;
use stentor_relay::tls::DevDir;

const ORIGIN: &str = env!("CARGO_BIN_EXE_stentor-origin");

/// The program with an environment of its own; exit code, standard output, standard error.
fn origin(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(ORIGIN);
    command.current_dir(dir).env_clear().stdin(Stdio::null());
    let output = command.args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn check(file: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("origin.toml"), file).unwrap();
    std::fs::write(dir.path().join("k.pem"), private_pem([3; 32])).unwrap();
    let args = ["--config", "origin.toml", "check-config"];
    let (code, out, err) = origin(dir.path(), &args);
    (code, out + &err)
}

#[test]
fn rooms_keys_and_tree_are_validated() {
    let dev = "[tls]\ndev = \"dev\"\n";
    let (code, text) = check(dev);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("rooms      made on first use"), "{text}");
    let good = format!(
        "{dev}[[keys]]\npath = \"k.pem\"\nkid = \"a\"\n[[rooms]]\nname = \"r\"\ntick_ms = 60\n\
         profile = {{ custom = {{ kbit_s = 24, frame_bytes = 120, tick_bytes = 300, redundancy = 2 }} }}\n"
    );
    let (code, text) = check(&good);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("keys       a\n") && text.contains("ticks of 60 ms"), "{text}");

    for (more, parts) in [
        ("[[rooms]]\nname = \"a\"\n[[rooms]]\nname = \"a\"\n", &["rooms.1.name", "twice"][..]),
        ("[[rooms]]\nname = \"a\"\ntick_ms = 30\n", &["rooms.0.tick_ms", "20, 40 or 60"]),
        ("[[rooms]]\nname = \"a\"\naudible = 99\n", &["rooms.0.audible", "1 to 16"]),
        ("[[rooms]]\nname = \"a\"\npublik = true\n", &["publik", "unknown"]),
        ("[[rooms]]\nname = \"a\"\nprofile = \"loud\"\n", &["loud", "not one of"]),
        ("[[rooms]]\ntitle = \"a\"\n", &["name", "missing"]),
        ("[[keys]]\npath = \"none.pem\"\n", &["keys.0.path", "none.pem", "cannot be read"]),
        ("[[keys]]\npath = \"origin.toml\"\n", &["keys.0.path", "not an Ed25519 private key"]),
        ("[[keys]]\npath = \"k.pem\"\n[[keys]]\npath = \"k.pem\"\n", &["keys.1", "there already"]),
        ("[[verify]]\nkey = \"x\"\n", &["verify.0.key", "base64url"]),
        ("[tree]\nchildren_share = 2.0\n", &["tree.children_share", "0 to 1"]),
        ("[tree]\norigin_childs = 2\n", &["tree.origin_childs", "unknown"]),
    ] {
        let (code, text) = check(&format!("{dev}{more}"));
        assert_eq!(code, Some(78), "{more}: {text}");
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("origin.toml"), "{text}");
    }
}

#[test]
fn tokens_are_minted_with_the_directorys_key() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--dev=d", "token", "--room", "r", "--role", "speaker", "--identity", "ann"];
    let (code, token, err) = origin(dir.path(), &args);
    assert_eq!(code, Some(0), "{err}");
    let dev = DevDir::open(&dir.path().join("d")).unwrap();
    let key = (dev.signer().kid().to_owned(), dev.signer().public());
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = Verifier::new([key]).unwrap().verify(token.trim(), now).unwrap();
    assert_eq!(claims.allow("r", Role::Speaker), Ok(()));
    assert!((3_590..=3_600).contains(&(claims.exp - now)), "an hour by default");

    std::fs::write(dir.path().join("k.pem"), private_pem([3; 32])).unwrap();
    let file = "[[keys]]\npath = \"k.pem\"\nkid = \"a\"\n";
    std::fs::write(dir.path().join("o.toml"), file).unwrap();
    let args = ["-c", "o.toml", "token", "--role", "relay", "--identity", "x", "--ttl", "90d"];
    let (code, token, err) = origin(dir.path(), &args);
    assert_eq!(code, Some(0), "{err}");
    let signer = Signer::from_pkcs8_pem(&private_pem([3; 32]), Some("a")).unwrap();
    let verifier = Verifier::new([("a".to_owned(), signer.public())]).unwrap();
    assert!(verifier.verify(token.trim(), now).unwrap().allow("", Role::Relay).is_ok());
}

#[test]
fn wrong_requests_for_tokens_end_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["--dev=d", "token", "--role", "speaker", "--identity", "a"][..],
        &["--dev=d", "token", "--room", "r", "--role", "emperor", "--identity", "a"],
        &["--dev=d", "token", "--room", "*", "--role", "speaker", "--identity", "a"],
        &["--dev=d", "token", "--room", "r", "--role", "host", "--identity", "a", "--ttl", "2"],
        &["token", "--room", "r", "--role", "host", "--identity", "a"],
    ] {
        let (code, out, err) = origin(dir.path(), args);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(!err.is_empty());
    }
}

/// The examples are right but for the paths, which are pointed to files that exist.
#[test]
fn the_example_configurations_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let pair = rcgen::generate_simple_self_signed(vec!["origin.example".to_owned()]).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("cert.pem", &pair.cert.pem());
    write("key.pem", &pair.signing_key.serialize_pem());
    write("ca.pem", &pair.cert.pem());
    write("token-key.pem", &private_pem([5; 32]));
    write("relay.token", "a.b.c\n");
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for name in ["origin.toml", "relay.toml"] {
        let text = std::fs::read_to_string(deploy.join(name)).unwrap();
        let text = text.replace("/etc/stentor", path);
        write(name, &text);
        // With every default written out, and the system's authorities not asked.
        let full: Vec<String> = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with("dev =") || rest.contains("characters") => "",
                Some("[[verify]]" | "kid = \"their-key\"") => "",
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
                _ => line,
            })
            .map(str::to_owned)
            .collect();
        write(&format!("full-{name}"), &full.join("\n"));
    }
    for file in ["origin.toml", "full-origin.toml"] {
        let ca = format!("--tls-ca={path}/ca.pem");
        let (code, out, err) = origin(dir.path(), &["-c", file, &ca, "check-config"]);
        assert_eq!(code, Some(0), "{file}: {err}");
        assert!(out.contains("town-hall"), "{out}");
    }
    for file in ["relay.toml", "full-relay.toml"] {
        let file = dir.path().join(file);
        let settings =
            stentor_relay::settings::Settings::load(Some(&file), Flags::default()).unwrap();
        assert_eq!(settings.node.region, "fra");
        assert_eq!(settings.token.unwrap().expose(), "a.b.c");
    }
}

/// What a relay does not know is the origin's, and the other way round: neither refuses the
/// other's variables.
#[test]
fn one_environment_serves_both_programs() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(ORIGIN);
    command.current_dir(dir.path()).env_clear().stdin(Stdio::null());
    for (name, value) in [
        ("STENTOR_ORIGIN", "o.example:1"),
        ("STENTOR_TOKEN", "a.b.c"),
        ("STENTOR_TOKEN_FILE", "x"),
        ("STENTOR_LEVEL", "1"),
    ] {
        command.env(name, value);
    }
    let output = command.args(["--dev", "check-config"]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{err}");
}
