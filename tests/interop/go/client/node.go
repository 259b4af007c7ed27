package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// node is an agent that attested by join token, seen from the wire alone.
type node struct {
	address  string
	serverID spiffeid.ID
	bundle   *x509bundle.Bundle
	svid     *x509svid.SVID
}

// nodeFlags reads what every node subcommand needs.
type nodeFlags struct{ server, trustDomain, bundle, token string }

func (f *nodeFlags) register(set *flag.FlagSet) {
	set.StringVar(&f.server, "server", "", "host:port of the server")
	set.StringVar(&f.trustDomain, "trust-domain", "", "name of the trust domain")
	set.StringVar(&f.bundle, "bundle", "", "file with the trust bundle, PEM")
	set.StringVar(&f.token, "join-token", "", "a join token")
}

// attest presents the join token on a connection without a client certificate.
func (f *nodeFlags) attest(ctx context.Context) (*node, error) {
	trustDomain, err := spiffeid.TrustDomainFromString(f.trustDomain)
	if err != nil {
		return nil, err
	}
	serverID, err := spiffeid.FromSegments(trustDomain, "spire", "server")
	if err != nil {
		return nil, err
	}
	bundle, err := x509bundle.Load(trustDomain, f.bundle)
	if err != nil {
		return nil, fmt.Errorf("load the bundle: %w", err)
	}
	key, csr, err := newRequest(nil)
	if err != nil {
		return nil, err
	}
	anonymous := tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(serverID))
	connection, err := dial(f.server, anonymous)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	stream, err := agentv1.NewAgentClient(connection).AttestAgent(ctx)
	if err != nil {
		return nil, fmt.Errorf("open attestation: %w", err)
	}
	err = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{
		Params: &agentv1.AttestAgentRequest_Params{
			Data:   &types.AttestationData{Type: "join_token", Payload: []byte(f.token)},
			Params: &agentv1.AgentX509SVIDParams{Csr: csr},
		},
	}})
	if err != nil {
		return nil, fmt.Errorf("send the join token: %w", err)
	}
	reply, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	result := reply.GetResult()
	if result == nil {
		return nil, errors.New("a join token was answered with a challenge")
	}
	svid, err := assemble(result.Svid.CertChain, key)
	if err != nil {
		return nil, err
	}
	return &node{f.server, serverID, bundle, svid}, nil
}

// dial opens one connection of its own as this agent.
func (n *node) dial() (*grpc.ClientConn, error) {
	return dial(n.address, tlsconfig.MTLSClientConfig(n.svid, n.bundle, tlsconfig.AuthorizeID(n.serverID)))
}

func dial(address string, configuration *tls.Config) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(configuration)))
}

// newRequest makes a P-256 key and a certificate request, with a URI if one is given.
func newRequest(id *url.URL) (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.CertificateRequest{}
	if id != nil {
		template.URIs = []*url.URL{id}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	return key, csr, err
}

func assemble(chain [][]byte, key crypto.Signer) (*x509svid.SVID, error) {
	var encoded []byte
	for _, certificate := range chain {
		encoded = append(encoded, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return x509svid.Parse(encoded, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func runAttest(ctx context.Context, arguments []string) error {
	var given nodeFlags
	set := flag.NewFlagSet("attest", flag.ExitOnError)
	given.register(set)
	_ = set.Parse(arguments)
	attested, err := given.attest(ctx)
	if err != nil {
		return err
	}
	connection, err := attested.dial()
	if err != nil {
		return err
	}
	defer connection.Close()
	entries, err := entryv1.NewEntryClient(connection).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	if err != nil {
		return fmt.Errorf("authorized entries: %w", err)
	}
	_, adminErr := entryv1.NewEntryClient(connection).ListEntries(ctx, &entryv1.ListEntriesRequest{})
	refusal := ""
	if adminErr != nil {
		refusal = adminErr.Error()
	}
	fmt.Fprintln(os.Stderr, "attested as", attested.svid.ID)
	emit(map[string]any{
		"spiffe_id": attested.svid.ID.String(), "entries": len(entries.Entries), "admin_refusal": refusal,
	})
	return nil
}
