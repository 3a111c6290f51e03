//! TLS with certificates that are made here, and change.

use crate::rig::{Client, Log, PATIENCE, free_port, options, start};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, PEM and DER.
struct Identity {
    pem: (String, String),
    der: (CertificateDer<'static>, Vec<u8>),
}

fn identity(issuer: &Issuer, name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &**issuer).unwrap();
    Identity { pem: (certificate.pem(), key.serialize_pem()), der: (certificate.der().clone(), key.serialize_der()) }
}

fn write(folder: &Path, identity: &Identity) {
    fs::write(folder.join("cert.pem"), &identity.pem.0).unwrap();
    fs::write(folder.join("key.pem"), &identity.pem.1).unwrap();
}

async fn connect(port: u16, roots: &[&Issuer], own: Option<&Identity>) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.der().clone()).unwrap();
    }
    let builder =
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(store);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            builder.with_client_auth_cert(vec![own.der.0.clone()], PrivateKeyDer::try_from(own.der.1.clone()).unwrap()).unwrap()
        }
    };
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await?;
    Ok(Client::over(stream))
}

fn https(port: u16, folder: &Path, more: &[(&str, &str)]) -> aqueduct_core::Options {
    let text = |name: &str| folder.join(name).display().to_string();
    let (listener, certificate, key) = (format!("https://127.0.0.1:{port}"), text("cert.pem"), text("key.pem"));
    let all =
        [("listener", listener.as_str()), ("ssl.certificate.location", certificate.as_str()), ("ssl.key.location", key.as_str())];
    options(port, &all.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
}

#[tokio::test]
async fn certificates_that_change_are_read_anew() {
    let (folder, log, port) = (tempfile::tempdir().unwrap(), Log::default(), free_port());
    let (old, new) = (authority("old"), authority("new"));
    write(folder.path(), &identity(&old, "localhost"));
    let running = start(&log, &https(port, folder.path(), &[])).await.unwrap();
    let mut kept = connect(port, &[&old], None).await.unwrap();
    assert_eq!(kept.post(&[], "1").await.status, 200);
    assert!(connect(port, &[&new], None).await.is_err());
    // What cannot be read changes nothing.
    fs::write(folder.path().join("cert.pem"), "half of a").unwrap();
    write(folder.path(), &identity(&new, "localhost"));
    let give_up = Instant::now() + PATIENCE;
    let mut fresh = loop {
        match connect(port, &[&new], None).await {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < give_up, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(fresh.post(&[], "2").await.status, 200);
    // An idle connection without its buffers, under TLS too.
    assert!(kept.silent(Duration::from_millis(1500)).await);
    assert_eq!(kept.post(&[], "3").await.status, 200);
    assert_eq!(log.values(), ["1", "2", "3"]);
    running.stop().await;
}

#[tokio::test]
async fn only_clients_of_the_authority_may_connect() {
    let (folder, log, port) = (tempfile::tempdir().unwrap(), Log::default(), free_port());
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    write(folder.path(), &identity(&ours, "localhost"));
    fs::write(folder.path().join("ca.pem"), ours.pem()).unwrap();
    let ca = folder.path().join("ca.pem").display().to_string();
    let running = start(&log, &https(port, folder.path(), &[("ssl.ca.location", &ca)])).await.unwrap();
    let mut known = connect(port, &[&ours], Some(&identity(&ours, "client"))).await.unwrap();
    assert_eq!(known.post(&[], "1").await.status, 200);
    for own in [None, Some(identity(&theirs, "client"))] {
        // With TLS 1.3 the client hears of it only when it reads.
        if let Ok(mut client) = connect(port, &[&ours], own.as_ref()).await {
            client.write("POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await;
            client.ends().await;
        }
    }
    assert_eq!(log.values(), ["1"]);
    running.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_files_is_said() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let ca = authority("a");
    for break_it in [
        (|folder: &Path| fs::remove_file(folder.join("cert.pem")).unwrap()) as fn(&Path),
        |folder| fs::write(folder.join("key.pem"), "nothing").unwrap(),
        |folder| fs::write(folder.join("cert.pem"), "").unwrap(),
    ] {
        write(folder.path(), &identity(&ca, "localhost"));
        break_it(folder.path());
        let error = start(&Log::default(), &https(port, folder.path(), &[])).await.err().unwrap();
        assert!(error.code() == "webhook.tls" && error.message().contains(".pem"), "{error:?}");
    }
}
