//! Certificates are reloaded, bad ones are not, and a development directory survives a race.

use std::os::unix::fs::PermissionsExt as _;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use stentor_proto::token::Verifier;
use stentor_proto::wire::Role;

use super::*;

/// A self-signed certificate that is its own authority: certificate and key in PEM.
fn own_pair(host: &str) -> (String, String) {
    let pair = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    (pair.cert.pem(), pair.signing_key.serialize_pem())
}

fn files(dir: &Path) -> TlsSettings {
    TlsSettings::Files {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        ca: Some(dir.join("cert.pem")),
    }
}

fn write(dir: &Path, (cert, key): &(String, String)) {
    std::fs::write(dir.join("cert.pem"), cert).unwrap();
    std::fs::write(dir.join("key.pem"), key).unwrap();
}

/// Runs a TLS handshake in memory; the client's view.
fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    host: &str,
) -> Result<ClientConnection, rustls::Error> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            server.read_tls(&mut left).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            client.read_tls(&mut left).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking());
    Ok(client)
}

#[test]
fn new_files_are_taken_and_bad_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = own_pair("a.example");
    write(dir.path(), &first);
    let mut tls = Tls::load(&files(dir.path()), None).unwrap();
    let mut server = tls.server();
    assert_eq!(tls.reload(), Reload::Unchanged);

    // The certificate alone is replaced: it does not fit to the key.
    let second = own_pair("b.example");
    std::fs::write(dir.path().join("cert.pem"), &second.0).unwrap();
    assert_eq!(tls.reload(), Reload::Bad);
    assert_eq!(tls.reload(), Reload::Unchanged, "a bad pair is reported once");
    assert!(!server.has_changed().unwrap());

    std::fs::write(dir.path().join("key.pem"), &second.1).unwrap();
    assert_eq!(tls.reload(), Reload::Done);
    assert!(server.has_changed().unwrap());
    let config = Arc::clone(&server.borrow_and_update());
    let trust = client_config(roots_from_file(&dir.path().join("cert.pem")).unwrap()).unwrap();
    handshake(Arc::clone(&config), trust, "b.example").unwrap();
    assert!(handshake(config, tls.client(), "b.example").is_err(), "trusts the first");

    std::fs::write(dir.path().join("key.pem"), "no key").unwrap();
    assert_eq!(tls.reload(), Reload::Bad);
    std::fs::remove_file(dir.path().join("key.pem")).unwrap();
    assert_eq!(tls.reload(), Reload::Bad);
    assert!(!server.has_changed().unwrap());
}

#[test]
fn errors_name_the_key_and_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Tls::load(&files(dir.path()), None).unwrap_err().to_string();
    assert!(load().contains("tls.cert") && load().contains("cannot be read"), "{}", load());
    let pair = own_pair("a.example");
    write(dir.path(), &("nothing".to_owned(), pair.1.clone()));
    assert!(load().contains("holds no certificate"), "{}", load());
    write(dir.path(), &(pair.0.clone(), own_pair("a.example").1));
    assert!(load().contains("tls.key") && load().contains("does not belong"), "{}", load());
    let big = "x".repeat(usize::try_from(PEM_BYTES).unwrap() + 1);
    write(dir.path(), &(big, pair.1));
    assert!(load().contains("at most"), "{}", load());
}

#[test]
fn quic_takes_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let settings = TlsSettings::Dev { dir: dir.path().join("dev") };
    let tls = Tls::load(&settings, None).unwrap();
    let server = Arc::clone(&tls.server().borrow());
    quinn_proto::crypto::rustls::QuicServerConfig::try_from(server).unwrap();
    quinn_proto::crypto::rustls::QuicClientConfig::try_from(tls.client()).unwrap();
}

#[test]
fn a_development_directory_is_shared_by_all_who_start_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/stentor-dev");
    let settings = TlsSettings::Dev { dir: path.clone() };
    let advertise = HostPort::parse("node.example:4433").unwrap();
    let all: Vec<Tls> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Tls::load(&settings, Some(&advertise)).unwrap()))
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for (server, client) in all.iter().zip(all.iter().skip(1)) {
        for host in ["localhost", "127.0.0.1", "::1", "node.example"] {
            let config = Arc::clone(&server.server().borrow());
            handshake(config, client.client(), host).unwrap();
        }
        let (server, client) = (server.dev().unwrap(), client.dev().unwrap());
        let key = (server.signer().kid().to_owned(), server.signer().public());
        let verifier = Verifier::new([key]).unwrap();
        let claims = verifier.verify(client.relay_token().expose(), now_s).unwrap();
        assert_eq!(claims.allow("", Role::Relay), Ok(()));
    }
    let mut names = Vec::new();
    for file in std::fs::read_dir(&path).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if name == "ca.pem" { 0o644 } else { 0o600 }, "{name}");
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["authority.pem", "ca.pem", "relay.token", "token-key.pem"]);
}

#[test]
fn a_page_is_told_the_hash_of_the_development_certificate_and_of_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let settings = TlsSettings::Dev { dir: dir.path().join("dev") };
    let mut tls = Tls::load(&settings, None).unwrap();
    let mut told = tls.certificate_hashes();
    let shown = |tls: &Tls| {
        let config = Arc::clone(&tls.server().borrow());
        let client = handshake(config, tls.client(), "localhost").unwrap();
        let leaf = client.peer_certificates().unwrap()[0].clone();
        vec![URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &leaf))]
    };
    let first = told.borrow_and_update().clone();
    assert_eq!(first, shown(&tls));
    let Source::Dev { issued, .. } = &mut tls.source else { panic!("development mode") };
    *issued = SystemTime::UNIX_EPOCH;
    assert_eq!(tls.reload(), Reload::Done);
    assert!(told.has_changed().unwrap());
    assert_eq!(*told.borrow_and_update(), shown(&tls));
    assert_ne!(*told.borrow(), first);

    write(dir.path(), &own_pair("a.example"));
    let operator = Tls::load(&files(dir.path()), None).unwrap();
    assert!(operator.certificate_hashes().borrow().is_empty());
}

#[test]
fn a_damaged_development_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token-key.pem"), "x").unwrap();
    let error = DevDir::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("token-key.pem") && error.contains("damaged"), "{error}");
    std::fs::remove_file(dir.path().join("token-key.pem")).unwrap();
    std::fs::write(dir.path().join("relay.token"), "old").unwrap();
    let made = DevDir::open(dir.path()).unwrap();
    assert_ne!(made.relay_token().expose(), "old");
    assert_eq!(format!("{:?}", made.relay_token()), "***");
}

#[test]
fn a_development_directory_that_others_may_write_into_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |mode| {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for open in [0o770, 0o702] {
        mode(open);
        let error = DevDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod go-w") && error.contains(&format!("{open:o}")), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written there");
    }
    mode(0o755);
    DevDir::open(dir.path()).unwrap();
}
