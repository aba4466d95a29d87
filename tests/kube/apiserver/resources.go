package main

// The built-in kinds that this server stores, and the little behaviour that each needs. The server keeps
// every kind in its external version: there is no conversion, and of validation only what the schema gives.

import (
	"context"
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
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
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
)

type resource struct {
	gv         schema.GroupVersion
	name       string
	namespaced bool
	status     bool
	object     runtime.Object
	list       runtime.Object
	short      []string
}

func (r resource) kind() string { return reflect.TypeOf(r.object).Elem().Name() }

var resources = []resource{
	{corev1.SchemeGroupVersion, "pods", true, true, &corev1.Pod{}, &corev1.PodList{}, []string{"po"}},
	{corev1.SchemeGroupVersion, "services", true, true, &corev1.Service{}, &corev1.ServiceList{}, []string{"svc"}},
	{corev1.SchemeGroupVersion, "endpoints", true, false, &corev1.Endpoints{}, &corev1.EndpointsList{}, []string{"ep"}},
	{corev1.SchemeGroupVersion, "nodes", false, true, &corev1.Node{}, &corev1.NodeList{}, []string{"no"}},
	{corev1.SchemeGroupVersion, "namespaces", false, true, &corev1.Namespace{}, &corev1.NamespaceList{}, []string{"ns"}},
	{corev1.SchemeGroupVersion, "serviceaccounts", true, false, &corev1.ServiceAccount{}, &corev1.ServiceAccountList{}, []string{"sa"}},
	{corev1.SchemeGroupVersion, "configmaps", true, false, &corev1.ConfigMap{}, &corev1.ConfigMapList{}, []string{"cm"}},
	{corev1.SchemeGroupVersion, "secrets", true, false, &corev1.Secret{}, &corev1.SecretList{}, nil},
	{corev1.SchemeGroupVersion, "events", true, false, &corev1.Event{}, &corev1.EventList{}, []string{"ev"}},
	{eventsv1.SchemeGroupVersion, "events", true, false, &eventsv1.Event{}, &eventsv1.EventList{}, nil},
	{discoveryv1.SchemeGroupVersion, "endpointslices", true, false, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}, nil},
	{appsv1.SchemeGroupVersion, "deployments", true, true, &appsv1.Deployment{}, &appsv1.DeploymentList{}, []string{"deploy"}},
	{appsv1.SchemeGroupVersion, "daemonsets", true, true, &appsv1.DaemonSet{}, &appsv1.DaemonSetList{}, []string{"ds"}},
	{appsv1.SchemeGroupVersion, "replicasets", true, true, &appsv1.ReplicaSet{}, &appsv1.ReplicaSetList{}, []string{"rs"}},
	{appsv1.SchemeGroupVersion, "statefulsets", true, true, &appsv1.StatefulSet{}, &appsv1.StatefulSetList{}, []string{"sts"}},
	{batchv1.SchemeGroupVersion, "jobs", true, true, &batchv1.Job{}, &batchv1.JobList{}, nil},
	{coordinationv1.SchemeGroupVersion, "leases", true, false, &coordinationv1.Lease{}, &coordinationv1.LeaseList{}, nil},
	{networkingv1.SchemeGroupVersion, "networkpolicies", true, false, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{}, []string{"netpol"}},
	{nodev1.SchemeGroupVersion, "runtimeclasses", false, false, &nodev1.RuntimeClass{}, &nodev1.RuntimeClassList{}, nil},
	{policyv1.SchemeGroupVersion, "poddisruptionbudgets", true, true, &policyv1.PodDisruptionBudget{}, &policyv1.PodDisruptionBudgetList{}, []string{"pdb"}},
	{schedulingv1.SchemeGroupVersion, "priorityclasses", false, false, &schedulingv1.PriorityClass{}, &schedulingv1.PriorityClassList{}, []string{"pc"}},
	{rbacv1.SchemeGroupVersion, "clusterroles", false, false, &rbacv1.ClusterRole{}, &rbacv1.ClusterRoleList{}, nil},
	{rbacv1.SchemeGroupVersion, "clusterrolebindings", false, false, &rbacv1.ClusterRoleBinding{}, &rbacv1.ClusterRoleBindingList{}, nil},
	{rbacv1.SchemeGroupVersion, "roles", true, false, &rbacv1.Role{}, &rbacv1.RoleList{}, nil},
	{rbacv1.SchemeGroupVersion, "rolebindings", true, false, &rbacv1.RoleBinding{}, &rbacv1.RoleBindingList{}, nil},
}

// strategy says what happens to an object on its way into storage.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	resource   resource
	statusOnly bool
}

func (s strategy) NamespaceScoped() bool           { return s.resource.namespaced }
func (s strategy) AllowCreateOnUpdate() bool       { return false }
func (s strategy) AllowUnconditionalUpdate() bool  { return true }
func (s strategy) Canonicalize(obj runtime.Object) {}
func (s strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	return nil
}
func (s strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return nil
}
func (s strategy) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string { return nil }
func (s strategy) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	return nil
}

func (s strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	if a, err := meta.Accessor(obj); err == nil {
		a.SetGeneration(1)
	}
	setDefaults(obj)
}

// A write to an object leaves its status alone, a write to its status leaves its spec alone.
func (s strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	if s.statusOnly {
		copyField(obj, old, "Spec")
		return
	}
	if s.resource.status {
		copyField(obj, old, "Status")
	}
	setDefaults(obj)
	now, was := fieldOf(obj, "Spec"), fieldOf(old, "Spec")
	if now.IsValid() && !reflect.DeepEqual(now.Interface(), was.Interface()) {
		a, _ := meta.Accessor(obj)
		b, _ := meta.Accessor(old)
		a.SetGeneration(b.GetGeneration() + 1)
	}
}

// podDeletion gives a pod that has a node its grace period: it stays, with a deletion timestamp, until its kubelet
// deletes it with a period of zero.
type podDeletion struct{ strategy }

func (podDeletion) CheckGracefulDelete(_ context.Context, obj runtime.Object, o *metav1.DeleteOptions) bool {
	pod := obj.(*corev1.Pod)
	period := int64(0)
	if o.GracePeriodSeconds != nil {
		period = max(*o.GracePeriodSeconds, 0)
	} else if pod.Spec.TerminationGracePeriodSeconds != nil {
		period = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		period = 0
	}
	o.GracePeriodSeconds = &period
	return true
}

func fieldOf(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

func copyField(to, from runtime.Object, name string) {
	if t, f := fieldOf(to, name), fieldOf(from, name); t.IsValid() && f.IsValid() {
		t.Set(f)
	}
}

// selectable gives what label and field selectors can match on.
func selectable(obj runtime.Object) (labels.Set, fields.Set, error) {
	a, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	set := fields.Set{"metadata.name": a.GetName(), "metadata.namespace": a.GetNamespace()}
	switch o := obj.(type) {
	case *corev1.Pod:
		set["spec.nodeName"] = o.Spec.NodeName
		set["status.phase"] = string(o.Status.Phase)
		set["status.podIP"] = o.Status.PodIP
	case *corev1.Secret:
		set["type"] = string(o.Type)
	case *corev1.Event:
		set["involvedObject.name"] = o.InvolvedObject.Name
		set["involvedObject.namespace"] = o.InvolvedObject.Namespace
		set["involvedObject.kind"] = o.InvolvedObject.Kind
		set["involvedObject.uid"] = string(o.InvolvedObject.UID)
		set["reason"] = o.Reason
		set["type"] = o.Type
	}
	return a.GetLabels(), set, nil
}

func (r resource) newStore(scheme *runtime.Scheme, getter generic.RESTOptionsGetter) (*store, error) {
	s := strategy{scheme, names.SimpleNameGenerator, r, false}
	var deletion rest.RESTDeleteStrategy = s
	if _, pod := r.object.(*corev1.Pod); pod {
		deletion = podDeletion{s}
	}
	gr := schema.GroupResource{Group: r.gv.Group, Resource: r.name}
	of := func(o runtime.Object) func() runtime.Object {
		t := reflect.TypeOf(o).Elem()
		return func() runtime.Object { return reflect.New(t).Interface().(runtime.Object) }
	}
	st := &registry.Store{
		NewFunc:                   of(r.object),
		NewListFunc:               of(r.list),
		DefaultQualifiedResource:  gr,
		SingularQualifiedResource: schema.GroupResource{Group: r.gv.Group, Resource: strings.ToLower(r.kind())},
		CreateStrategy:            s, UpdateStrategy: s, DeleteStrategy: deletion,
		TableConvertor: rest.NewDefaultTableConvertor(gr),
		PredicateFunc: func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: selectable}
		},
	}
	if err := st.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: selectable}); err != nil {
		return nil, err
	}
	return &store{st, r.short}, nil
}

type store struct {
	*registry.Store
	short []string
}

func (s *store) ShortNames() []string { return s.short }
func (s *store) Categories() []string {
	switch s.DefaultQualifiedResource.Resource {
	case "pods", "services", "deployments", "daemonsets", "replicasets", "statefulsets", "jobs":
		return []string{"all"}
	}
	return nil
}

// statusStore is the /status subresource of a store.
type statusStore struct{ store *registry.Store }

func (s *store) statusSubresource() *statusStore {
	c := *s.Store
	st := s.UpdateStrategy.(strategy)
	st.statusOnly = true
	c.UpdateStrategy = st
	return &statusStore{&c}
}

func (s *statusStore) New() runtime.Object { return s.store.New() }
func (s *statusStore) Destroy()            {}
func (s *statusStore) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, o)
}
func (s *statusStore) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, cv rest.ValidateObjectFunc, uv rest.ValidateObjectUpdateFunc, force bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, info, cv, uv, false, o)
}
