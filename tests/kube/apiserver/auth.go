package main

// Service account tokens, and the API kinds that ask who somebody is and what they may do: TokenRequest,
// TokenReview, SubjectAccessReview, SelfSubjectAccessReview.

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
)

const issuer = "https://kubernetes.default.svc"

// ---- Service account tokens

// claims has the shape of Kubernetes' own tokens.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes boundTo `json:"kubernetes.io"`
}

type boundTo struct {
	Namespace      string `json:"namespace"`
	ServiceAccount ref    `json:"serviceaccount"`
	Pod            *ref   `json:"pod,omitempty"`
	Node           *ref   `json:"node,omitempty"`
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// tokens signs and checks service account tokens. A token ends when its time is up, or when the service
// account, pod or node that it is bound to is gone or is another of the same name.
type tokens struct {
	key    *ecdsa.PrivateKey
	client kubernetes.Interface
}

func (t *tokens) check(ctx context.Context, raw string, audiences []string) (*authenticator.Response, []string, error) {
	var c claims
	_, err := jwt.ParseWithClaims(raw, &c, func(*jwt.Token) (any, error) { return &t.key.PublicKey, nil },
		jwt.WithIssuer(issuer), jwt.WithExpirationRequired(), jwt.WithValidMethods([]string{"ES256"}))
	if err != nil {
		return nil, nil, err
	}
	var matched []string
	for _, a := range audiences {
		if slices.Contains(c.Audience, a) {
			matched = append(matched, a)
		}
	}
	if len(matched) == 0 {
		return nil, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", c.Audience, audiences)
	}
	k := c.Kubernetes
	sa, err := t.client.CoreV1().ServiceAccounts(k.Namespace).Get(ctx, k.ServiceAccount.Name, metav1.GetOptions{})
	if err != nil || string(sa.UID) != k.ServiceAccount.UID {
		return nil, nil, errors.New("service account token has been invalidated: its service account is gone")
	}
	info := serviceaccount.ServiceAccountInfo{Namespace: k.Namespace, Name: sa.Name, UID: string(sa.UID)}
	if k.Pod != nil {
		pod, err := t.client.CoreV1().Pods(k.Namespace).Get(ctx, k.Pod.Name, metav1.GetOptions{})
		if err != nil || string(pod.UID) != k.Pod.UID {
			return nil, nil, errors.New("service account token has been invalidated: its pod is gone")
		}
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	}
	if k.Node != nil {
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: matched}, matched, nil
}

// AuthenticateToken is for requests to this server itself.
func (t *tokens) AuthenticateToken(ctx context.Context, raw string) (*authenticator.Response, bool, error) {
	r, _, err := t.check(ctx, raw, []string{issuer})
	return r, err == nil, err
}

func (t *tokens) issue(ctx context.Context, namespace, name string, want *authenticationv1.TokenRequestSpec) (string, time.Time, error) {
	sa, err := t.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", time.Time{}, err
	}
	seconds := int64(3600)
	if want.ExpirationSeconds != nil {
		seconds = *want.ExpirationSeconds
	}
	if seconds < 1 {
		return "", time.Time{}, apierrors.NewBadRequest("spec.expirationSeconds: may not specify a duration less than 1 second")
	}
	audiences := want.Audiences
	if len(audiences) == 0 {
		audiences = []string{issuer}
	}
	now := time.Now()
	c := claims{Kubernetes: boundTo{Namespace: namespace, ServiceAccount: ref{name, string(sa.UID)}}}
	c.Issuer, c.Audience, c.Subject = issuer, audiences, serviceaccount.MakeUsername(namespace, name)
	c.IssuedAt, c.NotBefore = jwt.NewNumericDate(now), jwt.NewNumericDate(now)
	c.ExpiresAt = jwt.NewNumericDate(now.Add(time.Duration(seconds) * time.Second))
	if b := want.BoundObjectRef; b != nil {
		if b.Kind != "Pod" {
			return "", time.Time{}, apierrors.NewBadRequest("spec.boundObjectRef: this server binds to Pods only, not to a " + b.Kind)
		}
		pod, err := t.client.CoreV1().Pods(namespace).Get(ctx, b.Name, metav1.GetOptions{})
		if err != nil {
			return "", time.Time{}, err
		}
		if b.UID != "" && b.UID != pod.UID {
			return "", time.Time{}, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, b.Name, errors.New("the UID in the bound object reference does not match the pod"))
		}
		if pod.Spec.ServiceAccountName != name {
			return "", time.Time{}, apierrors.NewBadRequest(fmt.Sprintf("pod %s runs as service account %q, not %q", b.Name, pod.Spec.ServiceAccountName, name))
		}
		c.Kubernetes.Pod = &ref{pod.Name, string(pod.UID)}
		if node := pod.Spec.NodeName; node != "" {
			c.Kubernetes.Node = &ref{Name: node}
			if n, err := t.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); err == nil {
				c.Kubernetes.Node.UID = string(n.UID)
			}
		}
	}
	raw, err := jwt.NewWithClaims(jwt.SigningMethodES256, c).SignedString(t.key)
	return raw, c.ExpiresAt.Time, err
}

// authenticateLoopback knows the server's own client by the token that it was given at start.
func authenticateLoopback(token string) authenticator.Token {
	return authenticator.TokenFunc(func(_ context.Context, raw string) (*authenticator.Response, bool, error) {
		if token == "" || raw != token {
			return nil, false, nil
		}
		return &authenticator.Response{User: &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}}}, true, nil
	})
}

// ---- The kinds that ask

// review is a kind that can only be created, and whose answer is its status.
type review struct {
	object   func() runtime.Object
	singular string
	answer   func(ctx context.Context, obj runtime.Object) error
}

func (r *review) New() runtime.Object     { return r.object() }
func (r *review) Destroy()                {}
func (r *review) NamespaceScoped() bool   { return false }
func (r *review) GetSingularName() string { return r.singular }
func (r *review) Create(ctx context.Context, obj runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	return obj, r.answer(ctx, obj)
}

func tokenReview(t *tokens) *review {
	return &review{
		func() runtime.Object { return &authenticationv1.TokenReview{} }, "tokenreview",
		func(ctx context.Context, obj runtime.Object) error {
			o := obj.(*authenticationv1.TokenReview)
			wanted := o.Spec.Audiences
			if len(wanted) == 0 {
				wanted = []string{issuer}
			}
			r, audiences, err := t.check(ctx, o.Spec.Token, wanted)
			if err != nil {
				o.Status = authenticationv1.TokenReviewStatus{Error: err.Error()}
				return nil
			}
			extra := map[string]authenticationv1.ExtraValue{}
			for k, v := range r.User.GetExtra() {
				extra[k] = v
			}
			groups := append(slices.Clone(r.User.GetGroups()), user.AllAuthenticated)
			o.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: audiences,
				User: authenticationv1.UserInfo{Username: r.User.GetName(), UID: r.User.GetUID(), Groups: groups, Extra: extra}}
			return nil
		},
	}
}

func subjectAccessReview(auth authorizer.Authorizer) *review {
	return &review{
		func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }, "subjectaccessreview",
		func(ctx context.Context, obj runtime.Object) error {
			o := obj.(*authorizationv1.SubjectAccessReview)
			u := &user.DefaultInfo{Name: o.Spec.User, Groups: o.Spec.Groups, UID: o.Spec.UID}
			o.Status = decide(ctx, auth, u, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes)
			return nil
		},
	}
}

func selfSubjectAccessReview(auth authorizer.Authorizer) *review {
	return &review{
		func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }, "selfsubjectaccessreview",
		func(ctx context.Context, obj runtime.Object) error {
			u, ok := genericrequest.UserFrom(ctx)
			if !ok {
				return apierrors.NewBadRequest("no user in the request")
			}
			o := obj.(*authorizationv1.SelfSubjectAccessReview)
			o.Status = decide(ctx, auth, u, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes)
			return nil
		},
	}
}

func decide(ctx context.Context, auth authorizer.Authorizer, u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	a := authorizer.AttributesRecord{User: u}
	if r != nil {
		a.ResourceRequest, a.Verb, a.Namespace, a.APIGroup, a.APIVersion = true, r.Verb, r.Namespace, r.Group, r.Version
		a.Resource, a.Subresource, a.Name = r.Resource, r.Subresource, r.Name
	} else if n != nil {
		a.Verb, a.Path = n.Verb, n.Path
	}
	d, reason, err := auth.Authorize(ctx, a)
	s := authorizationv1.SubjectAccessReviewStatus{Allowed: d == authorizer.DecisionAllow, Denied: d == authorizer.DecisionDeny, Reason: reason}
	if err != nil {
		s.EvaluationError = err.Error()
	}
	return s
}

// tokenRequest is the serviceaccounts/token subresource.
type tokenRequest struct{ tokens *tokens }

func (r *tokenRequest) New() runtime.Object { return &authenticationv1.TokenRequest{} }
func (r *tokenRequest) Destroy()            {}
func (r *tokenRequest) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}
func (r *tokenRequest) Create(ctx context.Context, name string, obj runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	o := obj.(*authenticationv1.TokenRequest)
	raw, until, err := r.tokens.issue(ctx, genericrequest.NamespaceValue(ctx), name, &o.Spec)
	if err != nil {
		return nil, err
	}
	o.Status = authenticationv1.TokenRequestStatus{Token: raw, ExpirationTimestamp: metav1.NewTime(until)}
	return o, nil
}
