package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"sort"
	"sync"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"google.golang.org/grpc/codes"
)

// runLoad attests once, then asks for certificates on several connections of that agent until
// the time is over. The requests are made beforehand, so that the clients cost little while
// the server's CPU is being counted by the caller, between the lines "begin" and "end".
func runLoad(ctx context.Context, arguments []string) error {
	var given nodeFlags
	set := flag.NewFlagSet("load", flag.ExitOnError)
	given.register(set)
	connections := set.Int("connections", 8, "connections, each with one call in flight")
	batch := set.Int("batch", 50, "certificates a call")
	warm := set.Duration("warm", 2*time.Second, "load before the measurement")
	lasting := set.Duration("for", 10*time.Second, "length of the measurement")
	_ = set.Parse(arguments)

	attested, err := given.attest(ctx)
	if err != nil {
		return err
	}
	requests, err := prepare(ctx, attested, *batch)
	if err != nil {
		return err
	}
	workers := make([]*worker, *connections)
	for index := range workers {
		connection, err := attested.dial()
		if err != nil {
			return err
		}
		defer connection.Close()
		workers[index] = &worker{client: svidv1.NewSVIDClient(connection), requests: requests, offset: index}
	}
	drive(ctx, workers, *warm)
	for _, each := range workers {
		each.reset()
	}
	emit(map[string]any{"event": "begin"})
	started := time.Now()
	drive(ctx, workers, *lasting)
	elapsed := time.Since(started)
	summary := summarise(workers, elapsed)
	summary["event"] = "end"
	emit(summary)
	return nil
}

// prepare makes some distinct calls of one certificate request an authorised entry.
func prepare(ctx context.Context, attested *node, batch int) ([]*svidv1.BatchNewX509SVIDRequest, error) {
	connection, err := attested.dial()
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	reply, err := authorized(ctx, entryv1.NewEntryClient(connection))
	if err != nil {
		return nil, err
	}
	var requests []*svidv1.BatchNewX509SVIDRequest
	for made, count := 0, max(16, 800/batch); len(requests) < count; {
		request := &svidv1.BatchNewX509SVIDRequest{}
		for range batch {
			entry := reply.Entries[made%len(reply.Entries)]
			made++
			id := &url.URL{Scheme: "spiffe", Host: entry.SpiffeId.TrustDomain, Path: entry.SpiffeId.Path}
			_, csr, err := newRequest(id)
			if err != nil {
				return nil, err
			}
			request.Params = append(request.Params, &svidv1.NewX509SVIDParams{EntryId: entry.Id, Csr: csr})
		}
		requests = append(requests, request)
	}
	return requests, nil
}

// authorized waits until the server's cache, which may be reloaded only every few seconds, has the entries.
func authorized(ctx context.Context, client entryv1.EntryClient) (*entryv1.GetAuthorizedEntriesResponse, error) {
	for range 40 {
		reply, err := client.GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
		if err != nil {
			return nil, fmt.Errorf("authorized entries: %w", err)
		}
		if len(reply.Entries) > 0 {
			return reply, nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return nil, errors.New("the agent is authorised for no entry")
}

type worker struct {
	client    svidv1.SVIDClient
	requests  []*svidv1.BatchNewX509SVIDRequest
	offset    int
	issued    int
	failed    int
	lastError string
	latencies []time.Duration
}

func (w *worker) reset() {
	w.issued, w.failed, w.lastError, w.latencies = 0, 0, "", nil
}

func (w *worker) run(ctx context.Context) {
	for ; ctx.Err() == nil; w.offset++ {
		request := w.requests[w.offset%len(w.requests)]
		started := time.Now()
		// The call itself is not cut off at the end of the measurement: what was begun is counted.
		reply, err := w.client.BatchNewX509SVID(context.WithoutCancel(ctx), request)
		if err != nil {
			w.failed += len(request.Params)
			w.lastError = err.Error()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		w.latencies = append(w.latencies, time.Since(started))
		for _, result := range reply.Results {
			if codes.Code(result.Status.GetCode()) == codes.OK && len(result.Svid.GetCertChain()) > 0 {
				w.issued++
			} else {
				w.failed++
				w.lastError = result.Status.GetMessage()
			}
		}
	}
}

func drive(ctx context.Context, workers []*worker, lasting time.Duration) {
	limited, cancel := context.WithTimeout(ctx, lasting)
	defer cancel()
	var group sync.WaitGroup
	for _, each := range workers {
		group.Go(func() { each.run(limited) })
	}
	group.Wait()
}

func summarise(workers []*worker, elapsed time.Duration) map[string]any {
	issued, failed, lastError := 0, 0, ""
	var latencies []time.Duration
	for _, each := range workers {
		issued += each.issued
		failed += each.failed
		if each.lastError != "" {
			lastError = each.lastError
		}
		latencies = append(latencies, each.latencies...)
	}
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	quantile := func(share float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return float64(latencies[int(share*float64(len(latencies)-1))].Microseconds()) / 1000
	}
	return map[string]any{
		"issued": issued, "failed": failed, "last_error": lastError, "seconds": elapsed.Seconds(),
		"p50_ms": quantile(0.50), "p99_ms": quantile(0.99),
	}
}
