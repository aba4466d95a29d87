package main

// The cluster's keys and certificates, and the kubeconfig of its administrator.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

type pki struct {
	caFile, serverCert, serverKey string
	caPEM, adminCert, adminKey    []byte
	accountKey                    *ecdsa.PrivateKey
}

// loadPKI reads the cluster's keys, making at the first start what is not there yet.
func loadPKI(in string) (*pki, error) {
	file := func(n string) string { return filepath.Join(in, n) }
	p := &pki{caFile: file("ca.crt"), serverCert: file("server.crt"), serverKey: file("server.key")}
	caKey, err := loadKey(file("ca.key"))
	if err != nil {
		return nil, err
	}
	if p.accountKey, err = loadKey(file("sa.key")); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.caFile); err != nil {
		ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "kube-ca"}, caKey)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(p.caFile, encode(ca.Raw), 0o644); err != nil {
			return nil, err
		}
	}
	if p.caPEM, err = os.ReadFile(p.caFile); err != nil {
		return nil, err
	}
	cas, err := cert.ParseCertsPEM(p.caPEM)
	if err != nil {
		return nil, err
	}
	for _, leaf := range []struct {
		name     string
		template x509.Certificate
	}{
		{"server", x509.Certificate{Subject: pkix.Name{CommonName: "kube-apiserver"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNSNames: []string{"localhost", "kubernetes.default.svc"}}},
		{"admin", x509.Certificate{Subject: pkix.Name{CommonName: "admin", Organization: []string{user.SystemPrivilegedGroup}}}},
	} {
		if err := writeLeaf(file(leaf.name+".crt"), file(leaf.name+".key"), leaf.template, cas[0], caKey); err != nil {
			return nil, err
		}
	}
	if p.adminCert, err = os.ReadFile(file("admin.crt")); err != nil {
		return nil, err
	}
	p.adminKey, err = os.ReadFile(file("admin.key"))
	return p, err
}

func loadKey(file string) (*ecdsa.PrivateKey, error) {
	if _, err := os.Stat(file); err != nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		text, err := keyutil.MarshalPrivateKeyToPEM(k)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
	}
	k, err := keyutil.PrivateKeyFromFile(file)
	if err != nil {
		return nil, err
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an ECDSA key", file)
	}
	return ec, nil
}

func writeLeaf(certFile, keyFile string, t x509.Certificate, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := loadKey(keyFile)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return err
	}
	t.SerialNumber = serial
	t.NotBefore, t.NotAfter = ca.NotBefore, time.Now().AddDate(1, 0, 0)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, &t, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	return os.WriteFile(certFile, encode(der), 0o644)
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: der})
}

func (p *pki) writeKubeconfig(file string) error {
	c := clientcmdapi.NewConfig()
	c.Clusters["kube"] = &clientcmdapi.Cluster{Server: fmt.Sprintf("https://127.0.0.1:%d", *port), CertificateAuthorityData: p.caPEM}
	c.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: p.adminCert, ClientKeyData: p.adminKey}
	c.Contexts["kube"] = &clientcmdapi.Context{Cluster: "kube", AuthInfo: "admin", Namespace: metav1.NamespaceDefault}
	c.CurrentContext = "kube"
	return clientcmd.WriteToFile(*c, file)
}
