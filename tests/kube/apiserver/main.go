// The API server of the Kubernetes tests: etcd, discovery, CRDs, watches, server-side apply, RBAC, service account
// tokens and an audit log in one process, on loopback. It is made of the libraries that the real one is made of
// (k8s.io/apiserver, k8s.io/apiextensions-apiserver, etcd's embed). README.md says what is real in it and what is not.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/klog/v2"
)

var (
	dir        = flag.String("dir", "", "folder for certificates, kubeconfig, audit log and data; the same folder again goes on with the same cluster (required)")
	port       = flag.Int("port", 0, "port to serve on, on 127.0.0.1 (0: any free one)")
	etcdPort   = flag.Int("etcd-port", 0, "port of the embedded etcd, on 127.0.0.1 (0: any free one)")
	compaction = flag.Duration("compaction-interval", 5*time.Minute, "how long old versions are kept; a watch from before that gets 410 Gone")
	attached   = flag.Bool("attached", false, "end when standard input does: with whoever started the server, however that ends")
)

func main() {
	log.SetFlags(log.Ltime)
	klog.InitFlags(nil)
	flag.Set("logtostderr", "false") // only what goes wrong is worth a line
	flag.Set("stderrthreshold", "ERROR")
	klog.SetOutput(io.Discard)
	flag.Parse()
	ctx := genericapiserver.SetupSignalContext()
	if *attached {
		var end context.CancelFunc
		ctx, end = context.WithCancel(ctx)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			end()
		}()
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if *dir == "" {
		return fmt.Errorf("--dir is required: a folder for this cluster's certificates and data")
	}
	if err := os.MkdirAll(filepath.Join(*dir, "pki"), 0o700); err != nil {
		return err
	}
	for _, p := range []*int{port, etcdPort} {
		if *p == 0 {
			free, err := freePort()
			if err != nil {
				return err
			}
			*p = free
		}
	}
	pki, err := loadPKI(filepath.Join(*dir, "pki"))
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	etcdURL, err := startEtcd(ctx)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	if err := registerTypes(); err != nil {
		return err
	}
	return serve(ctx, pki, etcdURL)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func startEtcd(ctx context.Context) (string, error) {
	peer, err := freePort()
	if err != nil {
		return "", err
	}
	local := func(p int) []url.URL { return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", p)}} }
	c := embed.NewConfig()
	c.Dir = filepath.Join(*dir, "etcd")
	c.LogLevel = "error"
	c.UnsafeNoFsync = true
	c.ListenClientUrls, c.AdvertiseClientUrls = local(*etcdPort), local(*etcdPort)
	c.ListenPeerUrls, c.AdvertisePeerUrls = local(peer), local(peer)
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err != nil {
		return "", err
	}
	go func() { <-ctx.Done(); e.Close() }()
	select {
	case <-e.Server.ReadyNotify():
		return local(*etcdPort)[0].String(), nil
	case err := <-e.Err():
		return "", err
	case <-time.After(30 * time.Second):
		return "", fmt.Errorf("not ready after 30 s")
	}
}
