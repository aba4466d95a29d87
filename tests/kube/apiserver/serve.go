package main

// Putting the server together: configuration, authentication, storage, the two API servers (built-in kinds, custom
// resources) of which one delegates to the other, and the objects that a cluster is born with.

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	noop "go.opentelemetry.io/otel/trace/noop"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	extoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizerunion "k8s.io/apiserver/pkg/authorization/union"
	aggregated "k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

var everything = labels.Everything()

func serve(ctx context.Context, pki *pki, etcdURL string) error {
	serving := options.NewSecureServingOptions()
	serving.BindAddress, serving.BindPort = net.IPv4(127, 0, 0, 1), *port
	serving.ServerCert.CertKey.CertFile, serving.ServerCert.CertKey.KeyFile = pki.serverCert, pki.serverKey
	clientCA, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", pki.caFile)
	if err != nil {
		return err
	}

	discovery := aggregated.NewResourceManager("apis")
	newConfig := func(cf serializer.CodecFactory) *genericapiserver.Config {
		c := genericapiserver.NewConfig(cf)
		c.AggregatedDiscoveryGroupManager = discovery
		c.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
		c.ExternalAddress = fmt.Sprintf("127.0.0.1:%d", *port)
		c.PublicAddress = net.IPv4(127, 0, 0, 1)
		namer := openapinamer.NewDefinitionNamer(scheme, extserver.Scheme)
		c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
		c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
		c.OpenAPIConfig.Info.Title, c.OpenAPIV3Config.Info.Title = "weft-tests", "weft-tests"
		return c
	}

	core := newConfig(codecs)
	if err := serving.WithLoopback().ApplyTo(&core.SecureServing, &core.LoopbackClientConfig); err != nil {
		return err
	}
	core.SecureServing.ClientCA = clientCA
	client, err := kubernetes.NewForConfig(core.LoopbackClientConfig)
	if err != nil {
		return err
	}
	shared := informers.NewSharedInformerFactory(client, 0)
	namespaces := shared.Core().V1().Namespaces().Informer()
	signer := &tokens{pki.accountKey, client}
	rules := &rbac{
		shared.Rbac().V1().ClusterRoles().Lister(), shared.Rbac().V1().ClusterRoleBindings().Lister(),
		shared.Rbac().V1().Roles().Lister(), shared.Rbac().V1().RoleBindings().Lister(),
	}
	loopback := authenticateLoopback(core.LoopbackClientConfig.BearerToken)
	core.Authentication.Authenticator = group.NewAuthenticatedGroupAdder(union.New(
		x509request.NewDynamic(clientCA.VerifyOptions, x509request.CommonNameUserConversion),
		bearertoken.New(loopback), bearertoken.New(signer), anonymous.NewAuthenticator(nil)))
	core.Authorization.Authorizer = authorizerunion.New(authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup), rules)
	if err := auditTo(core); err != nil {
		return err
	}
	admission, err := lifecycle.NewLifecycle(sets.New(metav1.NamespaceDefault, metav1.NamespaceSystem))
	if err != nil {
		return err
	}
	admission.SetExternalKubeClientSet(client)
	admission.SetExternalKubeInformerFactory(shared)
	core.AdmissionControl = admission

	etcd := func(codec runtime.Codec) *options.EtcdOptions {
		e := options.NewEtcdOptions(storagebackend.NewDefaultConfig("/registry", codec))
		e.StorageConfig.Transport.ServerList = []string{etcdURL}
		e.StorageConfig.CompactionInterval = *compaction
		e.SkipHealthEndpoints = true
		return e
	}
	coreStorage := etcd(codecs.LegacyCodec(groupVersions().UnsortedList()...))
	factory := serverstorage.NewDefaultStorageFactory(coreStorage.StorageConfig, runtime.ContentTypeJSON, codecs,
		serverstorage.NewDefaultResourceEncodingConfig(scheme), serverstorage.NewResourceConfig(), nil)
	if err := coreStorage.ApplyWithStorageFactoryTo(factory, core); err != nil {
		return err
	}

	ext := newConfig(extserver.Codecs)
	ext.SecureServing, ext.LoopbackClientConfig = core.SecureServing, core.LoopbackClientConfig
	ext.Authentication, ext.Authorization = core.Authentication, core.Authorization
	ext.AuditBackend, ext.AuditPolicyRuleEvaluator = core.AuditBackend, core.AuditPolicyRuleEvaluator
	ext.AdmissionControl = admission
	ext.MergedResourceConfig = extserver.DefaultAPIResourceConfigSource()
	ext.EnableDiscovery = false
	extStorage := etcd(extserver.Codecs.LegacyCodec(crdv1.SchemeGroupVersion))
	if err := extStorage.ApplyTo(ext); err != nil {
		return err
	}
	crds, err := (&extserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: *ext, SharedInformerFactory: shared},
		ExtraConfig: extserver.ExtraConfig{
			CRDRESTOptionsGetter: extoptions.NewCRDRESTOptionsGetter(*extStorage, ext.ResourceTransformers, ext.StorageObjectCountTracker),
			MasterCount:          1,
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, core.LoopbackClientConfig, noop.NewTracerProvider()),
		},
	}).Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}

	server, err := core.Complete(shared).New("weft-tests", crds.GenericAPIServer)
	if err != nil {
		return err
	}
	if err := install(server, core, signer); err != nil {
		return err
	}
	if err := keepNamespaces(ctx, core.LoopbackClientConfig, namespaces, string(pki.caPEM)); err != nil {
		return err
	}
	server.AddPostStartHookOrDie("first-objects", func(hook genericapiserver.PostStartHookContext) error {
		for _, name := range []string{metav1.NamespaceSystem, metav1.NamespaceDefault} {
			_, err := client.CoreV1().Namespaces().Create(hook, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			report(name, err)
		}
		_, err := client.RbacV1().ClusterRoles().Create(hook, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}, {NonResourceURLs: []string{"*"}, Verbs: []string{"*"}},
		}}, metav1.CreateOptions{})
		report("cluster-admin", err)
		if err := pki.writeKubeconfig(filepath.Join(*dir, "kubeconfig")); err != nil {
			return err
		}
		fmt.Printf("ready: KUBECONFIG=%s\n", filepath.Join(*dir, "kubeconfig"))
		return nil
	})
	return server.PrepareRun().RunWithContext(ctx)
}

// install adds every built-in kind to the server.
func install(server *genericapiserver.GenericAPIServer, c *genericapiserver.Config, signer *tokens) error {
	groups := map[string]*genericapiserver.APIGroupInfo{}
	add := func(gv schema.GroupVersion, name string, s rest.Storage) {
		if groups[gv.Group] == nil {
			g := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, scheme, metav1.ParameterCodec, codecs)
			groups[gv.Group] = &g
		}
		versions := groups[gv.Group].VersionedResourcesStorageMap
		if versions[gv.Version] == nil {
			versions[gv.Version] = map[string]rest.Storage{}
		}
		versions[gv.Version][name] = s
	}
	for _, r := range resources {
		s, err := r.newStore(scheme, c.RESTOptionsGetter)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		add(r.gv, r.name, s)
		if r.status {
			add(r.gv, r.name+"/status", s.statusSubresource())
		}
	}
	add(corev1.SchemeGroupVersion, "serviceaccounts/token", &tokenRequest{signer})
	add(authenticationv1.SchemeGroupVersion, "tokenreviews", tokenReview(signer))
	add(authorizationv1.SchemeGroupVersion, "subjectaccessreviews", subjectAccessReview(c.Authorization.Authorizer))
	add(authorizationv1.SchemeGroupVersion, "selfsubjectaccessreviews", selfSubjectAccessReview(c.Authorization.Authorizer))
	for name, g := range groups {
		var err error
		if name == "" {
			err = server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, g)
		} else {
			err = server.InstallAPIGroup(g)
		}
		if err != nil {
			return fmt.Errorf("group %q: %w", name, err)
		}
	}
	return nil
}

// auditTo writes one JSON line for each finished request: user, verb, resource, answer.
func auditTo(c *genericapiserver.Config) error {
	policy := filepath.Join(*dir, "audit-policy.yaml")
	text := "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: None\n  users: [\"system:apiserver\"]\n- level: Metadata\n"
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		return err
	}
	a := options.NewAuditOptions()
	a.PolicyFile = policy
	a.LogOptions.Path = filepath.Join(*dir, "audit.log")
	a.LogOptions.BatchOptions.Mode = options.ModeBlocking
	return a.ApplyTo(c)
}
