package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// identity is an X509-SVID as the tests want to see it.
type identity struct {
	SpiffeID string    `json:"spiffe_id"`
	Hint     string    `json:"hint,omitempty"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	Chain    int       `json:"chain_length"`
}

type x509Update struct {
	Identities []identity     `json:"identities"`
	Bundles    map[string]int `json:"bundles"`
	At         time.Time      `json:"at"`
}

func describe(update *workloadapi.X509Context) x509Update {
	described := x509Update{Bundles: map[string]int{}, At: time.Now()}
	for _, svid := range update.SVIDs {
		leaf := svid.Certificates[0]
		described.Identities = append(described.Identities, identity{
			SpiffeID: svid.ID.String(), Hint: svid.Hint, Serial: leaf.SerialNumber.Text(16),
			NotAfter: leaf.NotAfter, Chain: len(svid.Certificates),
		})
	}
	for _, bundle := range update.Bundles.Bundles() {
		described.Bundles[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	return described
}

// flags makes the flag set that all workload subcommands share.
func flags(name string) (*flag.FlagSet, *string, *time.Duration) {
	set := flag.NewFlagSet(name, flag.ExitOnError)
	socket := set.String("socket", "", "address of the Workload API, unix:///…")
	timeout := set.Duration("timeout", 20*time.Second, "give up after")
	return set, socket, timeout
}

func runX509(ctx context.Context, arguments []string) error {
	set, socket, timeout := flags("x509")
	_ = set.Parse(arguments)
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	update, err := workloadapi.FetchX509Context(ctx, workloadapi.WithAddr(*socket))
	if err != nil {
		return fmt.Errorf("fetch X.509 context: %w", err)
	}
	emit(describe(update))
	return nil
}

type watcher struct {
	remaining int
	done      context.CancelFunc
}

func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	emit(describe(update))
	if w.remaining--; w.remaining == 0 {
		w.done()
	}
}

func (w *watcher) OnX509ContextWatchError(err error) {
	emit(map[string]any{"error": err.Error(), "at": time.Now()})
}

func runWatch(ctx context.Context, arguments []string) error {
	set, socket, timeout := flags("watch")
	count := set.Int("count", 1, "end after so many updates")
	_ = set.Parse(arguments)
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	watching, done := context.WithCancel(ctx)
	err := workloadapi.WatchX509Context(watching, &watcher{*count, done}, workloadapi.WithAddr(*socket))
	if ctx.Err() == nil && watching.Err() != nil {
		return nil // all updates came
	}
	return err
}

func runJWT(ctx context.Context, arguments []string) error {
	set, socket, timeout := flags("jwt")
	audience := set.String("audience", "", "audience of the token")
	_ = set.Parse(arguments)
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	if err != nil {
		return fmt.Errorf("open JWT source: %w", err)
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: *audience})
	if err != nil {
		return fmt.Errorf("fetch JWT-SVID: %w", err)
	}
	here, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{*audience})
	if err != nil {
		return fmt.Errorf("validate JWT-SVID here: %w", err)
	}
	there, err := workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), *audience, workloadapi.WithAddr(*socket))
	if err != nil {
		return fmt.Errorf("validate JWT-SVID at the agent: %w", err)
	}
	_, wrong := workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), *audience+"-other", workloadapi.WithAddr(*socket))
	emit(map[string]any{
		"spiffe_id": svid.ID.String(), "audience": svid.Audience, "expires_at": svid.Expiry,
		"validated_here": here.ID.String(), "validated_there": there.ID.String(),
		"other_audience_refused": wrong != nil, "token": svid.Marshal(),
	})
	return nil
}

func runBundles(ctx context.Context, arguments []string) error {
	set, socket, timeout := flags("bundles")
	_ = set.Parse(arguments)
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	x509Set, err := workloadapi.FetchX509Bundles(ctx, workloadapi.WithAddr(*socket))
	if err != nil {
		return fmt.Errorf("fetch X.509 bundles: %w", err)
	}
	jwtSet, err := workloadapi.FetchJWTBundles(ctx, workloadapi.WithAddr(*socket))
	if err != nil {
		return fmt.Errorf("fetch JWT bundles: %w", err)
	}
	counts := map[string]map[string]int{"x509": {}, "jwt": {}}
	for _, bundle := range x509Set.Bundles() {
		counts["x509"][bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	for _, bundle := range jwtSet.Bundles() {
		counts["jwt"][bundle.TrustDomain().Name()] = len(bundle.JWTAuthorities())
	}
	emit(counts)
	return nil
}

func runServe(ctx context.Context, arguments []string) error {
	set, socket, _ := flags("serve")
	listen := set.String("listen", "127.0.0.1:0", "address to listen on")
	expected := set.String("authorize", "", "the SPIFFE ID that may call")
	count := set.Int("count", 1, "end after so many connections")
	_ = set.Parse(arguments)
	caller, err := spiffeid.FromString(*expected)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	if err != nil {
		return fmt.Errorf("open X.509 source: %w", err)
	}
	defer source.Close()
	configuration := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(caller))
	listener, err := tls.Listen("tcp", *listen, configuration)
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() { <-ctx.Done(); _ = listener.Close() }()
	emit(map[string]any{"listening": listener.Addr().String()})
	for served := 0; served < *count; served++ {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		if err := greet(connection.(*tls.Conn)); err != nil {
			emit(map[string]any{"refused": err.Error()})
		}
	}
	return nil
}

func greet(connection *tls.Conn) error {
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	if err := connection.Handshake(); err != nil {
		return err
	}
	peer, err := spiffetls.PeerIDFromConnectionState(connection.ConnectionState())
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return err
	}
	emit(map[string]any{"peer": peer.String(), "said": line})
	_, err = fmt.Fprintf(connection, "hello %s\n", peer)
	return err
}

func runCall(ctx context.Context, arguments []string) error {
	set, socket, timeout := flags("call")
	address := set.String("address", "", "address to call")
	expected := set.String("authorize", "", "the SPIFFE ID that must answer")
	_ = set.Parse(arguments)
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	callee, err := spiffeid.FromString(*expected)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	if err != nil {
		return fmt.Errorf("open X.509 source: %w", err)
	}
	defer source.Close()
	dialer := tls.Dialer{Config: tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(callee))}
	raw, err := dialer.DialContext(ctx, "tcp", *address)
	if err != nil {
		return fmt.Errorf("mutual TLS to %s: %w", *address, err)
	}
	defer raw.Close()
	connection, isTLS := raw.(*tls.Conn)
	if !isTLS {
		return errors.New("the dialer gave no TLS connection")
	}
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintln(connection, "hello"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	peer, err := spiffetls.PeerIDFromConnectionState(connection.ConnectionState())
	if err != nil {
		return err
	}
	emit(map[string]any{"peer": peer.String(), "answer": answer})
	return nil
}
