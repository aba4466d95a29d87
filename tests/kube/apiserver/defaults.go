package main

// What controllers and agents read of built-in kinds and a real server fills in.

import (
	"fmt"
	"hash/fnv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// setDefaults fills in what controllers and agents read and a real server would have filled in.
func setDefaults(obj runtime.Object) {
	switch o := obj.(type) {
	case *corev1.Pod:
		if o.Spec.ServiceAccountName == "" {
			o.Spec.ServiceAccountName = "default"
		}
		if o.Spec.RestartPolicy == "" {
			o.Spec.RestartPolicy = corev1.RestartPolicyAlways
		}
		if o.Spec.DNSPolicy == "" {
			o.Spec.DNSPolicy = corev1.DNSClusterFirst
		}
		if o.Spec.TerminationGracePeriodSeconds == nil {
			half := int64(corev1.DefaultTerminationGracePeriodSeconds)
			o.Spec.TerminationGracePeriodSeconds = &half
		}
		if o.Status.Phase == "" {
			o.Status.Phase = corev1.PodPending
		}
	case *corev1.Namespace:
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels["kubernetes.io/metadata.name"] = o.Name
		o.Status.Phase = corev1.NamespaceActive
	case *corev1.Service:
		if o.Spec.Type == "" {
			o.Spec.Type = corev1.ServiceTypeClusterIP
		}
		if o.Spec.SessionAffinity == "" {
			o.Spec.SessionAffinity = corev1.ServiceAffinityNone
		}
		for i := range o.Spec.Ports {
			p := &o.Spec.Ports[i]
			if p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
			if p.TargetPort == (intstr.IntOrString{}) {
				p.TargetPort = intstr.FromInt32(p.Port)
			}
		}
		if o.Spec.Type == corev1.ServiceTypeExternalName {
			return
		}
		if o.Spec.ClusterIP == "" {
			// A steady address out of 10.96.0.0/16 by name; two names may, rarely, collide.
			h := fnv.New32a()
			fmt.Fprintf(h, "%s/%s", o.Namespace, o.Name)
			n := h.Sum32()
			o.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", n>>8&0xff, n&0xff)
		}
		if len(o.Spec.ClusterIPs) == 0 {
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		}
		if len(o.Spec.IPFamilies) == 0 {
			family := corev1.IPv4Protocol
			if strings.Contains(o.Spec.ClusterIP, ":") {
				family = corev1.IPv6Protocol
			}
			o.Spec.IPFamilies = []corev1.IPFamily{family}
		}
	case *appsv1.Deployment:
		if o.Spec.Replicas == nil {
			one := int32(1)
			o.Spec.Replicas = &one
		}
	}
}
