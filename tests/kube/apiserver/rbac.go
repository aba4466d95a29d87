package main

// Role-based access control: what the roles that are bound to the caller allow.

import (
	"context"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// rbac grants what the roles bound to the caller cover, and says nothing otherwise.
type rbac struct {
	clusterRoles    rbaclisters.ClusterRoleLister
	clusterBindings rbaclisters.ClusterRoleBindingLister
	roles           rbaclisters.RoleLister
	bindings        rbaclisters.RoleBindingLister
}

// Everyone who is authenticated may look at the API's own description and ask what they may do.
var everyone = []rbacv1.PolicyRule{
	{Verbs: []string{"get"}, NonResourceURLs: []string{"/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/", "/healthz", "/livez", "/readyz"}},
	{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews"}},
}

var ownHealth = []rbacv1.PolicyRule{
	{Verbs: []string{"get"}, NonResourceURLs: []string{"/version", "/healthz", "/livez", "/readyz"}},
}

func (r *rbac) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	wanted := rbacv1.PolicyRule{Verbs: []string{a.GetVerb()}}
	if a.IsResourceRequest() {
		name := a.GetResource()
		if s := a.GetSubresource(); s != "" {
			name += "/" + s
		}
		wanted.APIGroups, wanted.Resources = []string{a.GetAPIGroup()}, []string{name}
		if a.GetName() != "" {
			wanted.ResourceNames = []string{a.GetName()}
		}
	} else {
		wanted.NonResourceURLs = []string{a.GetPath()}
	}
	rules := r.rulesFor(a.GetUser(), a.GetNamespace())
	if covered, _ := validation.Covers(rules, []rbacv1.PolicyRule{wanted}); covered {
		return authorizer.DecisionAllow, "RBAC: allowed", nil
	}
	return authorizer.DecisionNoOpinion, "RBAC: no rule matched", nil
}

func (r *rbac) rulesFor(u user.Info, namespace string) []rbacv1.PolicyRule {
	rules := slices.Clone(ownHealth)
	if slices.Contains(u.GetGroups(), user.AllAuthenticated) {
		rules = append(rules, everyone...)
	}
	add := func(role rbacv1.RoleRef, inNamespace string) {
		if role.Kind == "ClusterRole" {
			if c, err := r.clusterRoles.Get(role.Name); err == nil {
				rules = append(rules, r.aggregated(c)...)
			}
		} else if c, err := r.roles.Roles(inNamespace).Get(role.Name); err == nil {
			rules = append(rules, c.Rules...)
		}
	}
	all, _ := r.clusterBindings.List(everything)
	for _, b := range all {
		if namesUser(b.Subjects, u, "") {
			add(b.RoleRef, "")
		}
	}
	if namespace != "" {
		all, _ := r.bindings.RoleBindings(namespace).List(everything)
		for _, b := range all {
			if namesUser(b.Subjects, u, namespace) {
				add(b.RoleRef, namespace)
			}
		}
	}
	return rules
}

// aggregated adds the rules of the roles that an aggregation rule selects (a real cluster has a controller for that).
func (r *rbac) aggregated(c *rbacv1.ClusterRole) []rbacv1.PolicyRule {
	rules := slices.Clone(c.Rules)
	if c.AggregationRule == nil {
		return rules
	}
	for _, s := range c.AggregationRule.ClusterRoleSelectors {
		sel, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			continue
		}
		others, _ := r.clusterRoles.List(sel)
		for _, o := range others {
			rules = append(rules, o.Rules...)
		}
	}
	return rules
}

func namesUser(subjects []rbacv1.Subject, u user.Info, namespace string) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		switch s.Kind {
		case rbacv1.UserKind:
			return s.Name == u.GetName()
		case rbacv1.GroupKind:
			return slices.Contains(u.GetGroups(), s.Name)
		case rbacv1.ServiceAccountKind:
			if s.Namespace != "" {
				namespace = s.Namespace
			}
			return serviceaccount.MatchesUsername(namespace, s.Name, u.GetName())
		}
		return false
	})
}
