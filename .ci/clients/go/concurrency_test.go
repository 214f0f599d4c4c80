package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	v3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/status"
)

func session(t *testing.T, c *v3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(c, concurrency.WithTTL(30))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMutex(t *testing.T) {
	c, ctx, p := open(t)
	one, other := concurrency.NewMutex(session(t, c), p+"m"), concurrency.NewMutex(session(t, c), p+"m")
	must(t, one.Lock(ctx))
	same(t, "held", errors.Is(other.TryLock(ctx), concurrency.ErrLocked), true)
	got := make(chan error, 1)
	go func() { got <- other.Lock(ctx) }()
	select {
	case <-got:
		t.Fatal("locked twice")
	case <-time.After(300 * time.Millisecond):
	}
	must(t, one.Unlock(ctx))
	must(t, <-got)
	must(t, other.Unlock(ctx))
}

func TestMutexOfManySessions(t *testing.T) {
	c, ctx, p := open(t)
	inside, total := 0, 0
	var wait sync.WaitGroup
	for range 8 {
		m := concurrency.NewMutex(session(t, c), p+"m")
		wait.Add(1)
		go func() {
			defer wait.Done()
			for range 5 {
				if err := m.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				inside++
				if inside != 1 {
					t.Error("two are inside")
				}
				total++
				inside--
				if err := m.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wait.Wait()
	same(t, "turns", total, 40)
}

func TestElection(t *testing.T) {
	c, ctx, p := open(t)
	one, other := concurrency.NewElection(session(t, c), p+"e"), concurrency.NewElection(session(t, c), p+"e")
	_, err := one.Leader(ctx)
	same(t, "nobody", errors.Is(err, concurrency.ErrElectionNoLeader), true)
	observed := one.Observe(ctx)
	must(t, one.Campaign(ctx, "one"))
	same(t, "observed", values((<-observed).Kvs), "one")
	must(t, one.Proclaim(ctx, "uno"))
	same(t, "proclaimed", values((<-observed).Kvs), "uno")
	won := make(chan error, 1)
	go func() { won <- other.Campaign(ctx, "other") }()
	select {
	case <-won:
		t.Fatal("two lead")
	case <-time.After(300 * time.Millisecond):
	}
	must(t, one.Resign(ctx))
	must(t, <-won)
	same(t, "observed the next", values((<-observed).Kvs), "other")
	leader, err := other.Leader(ctx)
	must(t, err)
	same(t, "leads", values(leader.Kvs), "other")
}

func TestStm(t *testing.T) {
	c, ctx, p := open(t)
	for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads, concurrency.ReadCommitted} {
		for i := range 4 {
			_, err := c.Put(ctx, fmt.Sprint(p, i), "100")
			must(t, err)
		}
		var wait sync.WaitGroup
		for n := range 6 {
			wait.Add(1)
			go func() {
				defer wait.Done()
				from, to := fmt.Sprint(p, n%4), fmt.Sprint(p, (n+1)%4)
				_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
					a, _ := strconv.Atoi(s.Get(from))
					b, _ := strconv.Atoi(s.Get(to))
					s.Put(from, fmt.Sprint(a-7))
					s.Put(to, fmt.Sprint(b+7))
					return nil
				}, concurrency.WithIsolation(level), concurrency.WithPrefetch(from, to))
				if err != nil {
					t.Error(err)
				}
			}()
		}
		wait.Wait()
		got, err := c.Get(ctx, p, v3.WithPrefix())
		must(t, err)
		sum := 0
		for _, kv := range got.Kvs {
			n, _ := strconv.Atoi(string(kv.Value))
			sum += n
		}
		if level != concurrency.ReadCommitted {
			same(t, "sum", sum, 400)
		}
	}
}

func TestNaming(t *testing.T) {
	c, ctx, p := open(t)
	m, err := endpoints.NewManager(c, p+"service")
	must(t, err)
	w, err := m.NewWatchChannel(ctx)
	must(t, err)
	must(t, m.AddEndpoint(ctx, p+"service/a", endpoints.Endpoint{Addr: "127.0.0.1:1", Metadata: "x"}))
	update := <-w
	same(t, "added", fmt.Sprint(len(update), update[0].Op, update[0].Endpoint.Addr), fmt.Sprint(1, endpoints.Add, "127.0.0.1:1"))
	listed, err := m.List(ctx)
	must(t, err)
	same(t, "listed", len(listed), 1)
	must(t, m.DeleteEndpoint(ctx, p+"service/a"))
	same(t, "deleted", (<-w)[0].Op, endpoints.Delete)
	_, err = resolver.NewBuilder(c)
	must(t, err)
}

func TestLockService(t *testing.T) {
	c, ctx, p := open(t)
	locks := lpb.NewLockClient(c.ActiveConnection())
	one, err := c.Grant(ctx, 30)
	must(t, err)
	other, err := c.Grant(ctx, 30)
	must(t, err)
	held, err := locks.Lock(ctx, &lpb.LockRequest{Name: []byte(p + "m"), Lease: int64(one.ID)})
	must(t, err)
	same(t, "key", string(held.Key), fmt.Sprintf("%sm/%x", p, int64(one.ID)))
	again, err := locks.Lock(ctx, &lpb.LockRequest{Name: []byte(p + "m"), Lease: int64(one.ID)})
	must(t, err)
	same(t, "the same again", string(again.Key), string(held.Key))
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err = locks.Lock(short, &lpb.LockRequest{Name: []byte(p + "m"), Lease: int64(other.ID)})
	cancel()
	same(t, "waits", status.Code(err), "DeadlineExceeded")
	next := make(chan error, 1)
	go func() {
		_, err := locks.Lock(ctx, &lpb.LockRequest{Name: []byte(p + "m"), Lease: int64(other.ID)})
		next <- err
	}()
	_, err = locks.Unlock(ctx, &lpb.UnlockRequest{Key: held.Key})
	must(t, err)
	must(t, <-next)
	_, err = locks.Lock(ctx, &lpb.LockRequest{Name: []byte(p + "m"), Lease: 0x7777777777})
	same(t, "no lease", line(status.Code(err), status.Convert(err).Message()), "Unknown etcdserver: requested lease not found")
	_, err = locks.Unlock(ctx, &lpb.UnlockRequest{})
	same(t, "no key", line(status.Code(err), status.Convert(err).Message()), "Unknown etcdserver: key is not provided")
}

func TestElectionService(t *testing.T) {
	c, ctx, p := open(t)
	elections := epb.NewElectionClient(c.ActiveConnection())
	name := []byte(p + "e")
	_, err := elections.Leader(ctx, &epb.LeaderRequest{Name: name})
	same(t, "nobody", line(status.Code(err), status.Convert(err).Message()), "Unknown election: no leader")
	lease, err := c.Grant(ctx, 30)
	must(t, err)
	observed, err := elections.Observe(ctx, &epb.LeaderRequest{Name: name})
	must(t, err)
	won, err := elections.Campaign(ctx, &epb.CampaignRequest{Name: name, Lease: int64(lease.ID), Value: []byte("one")})
	must(t, err)
	same(t, "key", line(string(won.Leader.Key), won.Leader.Rev > 0), fmt.Sprintf("%se/%x true", p, int64(lease.ID)))
	seen, err := observed.Recv()
	must(t, err)
	same(t, "observed", string(seen.Kv.Value), "one")
	_, err = elections.Proclaim(ctx, &epb.ProclaimRequest{Leader: won.Leader, Value: []byte("uno")})
	must(t, err)
	seen, err = observed.Recv()
	must(t, err)
	same(t, "observed", string(seen.Kv.Value), "uno")
	leader, err := elections.Leader(ctx, &epb.LeaderRequest{Name: name})
	must(t, err)
	same(t, "leader", string(leader.Kv.Value), "uno")
	_, err = elections.Resign(ctx, &epb.ResignRequest{Leader: won.Leader})
	must(t, err)
	_, err = elections.Proclaim(ctx, &epb.ProclaimRequest{Leader: won.Leader, Value: []byte("x")})
	same(t, "not leader", line(status.Code(err), status.Convert(err).Message()), "Unknown election: not leader")
	_, err = elections.Resign(ctx, &epb.ResignRequest{})
	same(t, "no leader given", line(status.Code(err), status.Convert(err).Message()), `Unknown "leader" field must be provided`)
}

// What writes take while a hundred thousand leases end; printed, not judged. Only if asked for.
func TestHundredThousandLeases(t *testing.T) {
	if os.Getenv("CONCUR_MANY_LEASES") == "" {
		t.Skip("CONCUR_MANY_LEASES is not set")
	}
	c, _, p := open(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	worst := func() time.Duration {
		var all []time.Duration
		for i := range 200 {
			began := time.Now()
			_, err := c.Put(ctx, p+"w", fmt.Sprint(i))
			must(t, err)
			all = append(all, time.Since(began))
		}
		slices.Sort(all)
		t.Logf("puts: median %v, 99 %% %v, worst %v", all[100], all[197], all[199])
		return all[199]
	}
	worst()
	const count, ttl = 100000, 60
	var wait sync.WaitGroup
	began := time.Now()
	for part := range 100 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range count / 100 {
				l, err := c.Grant(ctx, ttl)
				if err == nil {
					_, err = c.Put(ctx, fmt.Sprint(p, "l", part, "-", i), "v", v3.WithLease(l.ID))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wait.Wait()
	t.Logf("granted %d leases with a key each in %v", count, time.Since(began))
	for {
		got, err := c.Get(ctx, p+"l", v3.WithPrefix(), v3.WithCountOnly())
		must(t, err)
		t.Logf("%v after the first grant %d keys are left", time.Since(began).Round(time.Second), got.Count)
		if got.Count == 0 {
			return
		}
		worst()
		time.Sleep(2 * time.Second)
	}
}
