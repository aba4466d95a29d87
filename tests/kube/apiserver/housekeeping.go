package main

// The two habits of a cluster that almost every client leans on, kept while the server runs: a namespace is
// born with a default service account and the cluster's CA, and takes what is in it along when it goes.

import (
	"context"
	"log"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func keepNamespaces(ctx context.Context, cfg *restclient.Config, informer cache.SharedIndexInformer, caPEM string) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			ns := obj.(*corev1.Namespace).Name
			_, err := client.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
			report(ns, err)
			_, err = client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": caPEM}}, metav1.CreateOptions{})
			report(ns, err)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			empty(ctx, client.Discovery(), dyn, obj.(*corev1.Namespace).Name)
		},
	})
	return err
}

func report(ns string, err error) {
	if err != nil && !apierrors.IsAlreadyExists(err) {
		log.Printf("namespace %s: %v", ns, err)
	}
}

// empty deletes every object in a namespace that has just been deleted.
func empty(ctx context.Context, d discovery.DiscoveryInterface, dyn dynamic.Interface, ns string) {
	_, lists, _ := d.ServerGroupsAndResources()
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range l.APIResources {
			if !r.Namespaced || strings.Contains(r.Name, "/") {
				continue
			}
			err := dyn.Resource(gv.WithResource(r.Name)).Namespace(ns).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
				log.Printf("namespace %s: %s: %v", ns, r.Name, err)
			}
		}
	}
}
