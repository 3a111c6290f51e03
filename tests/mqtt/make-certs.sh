#!/usr/bin/env bash
# make-certs.sh DIR : a certificate authority of its own and, signed by it, a server (127.0.0.1, localhost) and a client (CN=alice); and an authority that signed nothing.
#   ca.pem, server.pem + server.key, client.pem (certificate and key in one file), other-ca.pem
set -euo pipefail
mkdir -p "$1"; cd "$1"
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2> /dev/null; chmod 600 "$1"; }
authority() {
  key "$1.key"
  openssl req -x509 -new -key "$1.key" -subj "/CN=Aqueduct test $1" -days 30 -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -out "$1.pem" 2> /dev/null; }
sign() { # name subject extensions
  key "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr" 2> /dev/null
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile <(printf '%s\n' "$3") -out "$1.pem" 2> /dev/null; }
authority ca
authority other-ca
sign server /CN=localhost "subjectAltName=IP:127.0.0.1,DNS:localhost"
sign client /CN=alice "extendedKeyUsage=clientAuth"
cat client.key >> client.pem
