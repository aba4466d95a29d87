package main

// The server's registry of types: every built-in kind, under its external version and under the internal one.

import (
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
)

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func registerTypes() error {
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, eventsv1.AddToScheme, discoveryv1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme,
		coordinationv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme, policyv1.AddToScheme, schedulingv1.AddToScheme,
		rbacv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme, metainternal.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for gv := range groupVersions() {
		internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
		for kind := range scheme.KnownTypes(gv) {
			if t, err := scheme.New(gv.WithKind(kind)); err == nil && scheme.KnownTypes(gv)[kind].PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1" {
				scheme.AddKnownTypeWithName(internal.WithKind(kind), t)
			}
		}
		if err := scheme.SetVersionPriority(gv); err != nil {
			return err
		}
	}
	anyField := func(label, value string) (string, string, error) { return label, value, nil }
	for _, r := range resources {
		if err := scheme.AddFieldLabelConversionFunc(r.gv.WithKind(r.kind()), anyField); err != nil {
			return err
		}
	}
	return nil
}

func groupVersions() sets.Set[schema.GroupVersion] {
	all := sets.New(authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion)
	for _, r := range resources {
		all.Insert(r.gv)
	}
	return all
}

func describedObjects() []runtime.Object {
	all := []runtime.Object{&authenticationv1.TokenReview{}, &authenticationv1.TokenRequest{}, &authorizationv1.SubjectAccessReview{}, &authorizationv1.SelfSubjectAccessReview{}}
	for _, r := range resources {
		all = append(all, r.object, r.list)
	}
	return all
}
