// etcd's own Go client against whatever endpoints it is given: ETCD_ENDPOINTS, comma-separated. Every test uses a prefix of its own.
package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	v3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
	"google.golang.org/grpc"
)

func addresses() []string { return strings.Split(os.Getenv("ETCD_ENDPOINTS"), ",") }

func open(t *testing.T) (*v3.Client, context.Context, string) {
	t.Helper()
	c, err := v3.New(v3.Config{Endpoints: addresses(), DialTimeout: 10 * time.Second, DialOptions: []grpc.DialOption{grpc.WithBlock()}})
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(func() { cancel(); c.Close() })
	return c, ctx, fmt.Sprintf("%s-%d/", t.Name(), time.Now().UnixNano())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// line joins with a space between.
func line(all ...any) string { return strings.TrimSuffix(fmt.Sprintln(all...), "\n") }

func values(kvs []*mvccpb.KeyValue) string {
	var all []string
	for _, kv := range kvs {
		all = append(all, string(kv.Value))
	}
	return strings.Join(all, " ")
}

func TestPutGetDelete(t *testing.T) {
	c, ctx, p := open(t)
	first, err := c.Put(ctx, p+"a", "1")
	must(t, err)
	second, err := c.Put(ctx, p+"a", "2", v3.WithPrevKV())
	must(t, err)
	same(t, "previous", string(second.PrevKv.Value), "1")
	same(t, "revision", second.Header.Revision, first.Header.Revision+1)
	got, err := c.Get(ctx, p+"a")
	must(t, err)
	same(t, "value", values(got.Kvs), "2")
	same(t, "version", got.Kvs[0].Version, 2)
	old, err := c.Get(ctx, p+"a", v3.WithRev(first.Header.Revision))
	must(t, err)
	same(t, "old value", values(old.Kvs), "1")
	gone, err := c.Delete(ctx, p+"a", v3.WithPrevKV())
	must(t, err)
	same(t, "deleted", gone.Deleted, 1)
	same(t, "deleted value", string(gone.PrevKvs[0].Value), "2")
	none, err := c.Delete(ctx, p+"a")
	must(t, err)
	same(t, "deleted again", none.Deleted, 0)
	same(t, "no new revision", none.Header.Revision, gone.Header.Revision)
}

func TestRangeOptions(t *testing.T) {
	c, ctx, p := open(t)
	for i, key := range []string{"c", "a", "b", "d"} {
		_, err := c.Put(ctx, p+key, fmt.Sprint(9-i))
		must(t, err)
	}
	get := func(opts ...v3.OpOption) *v3.GetResponse {
		t.Helper()
		got, err := c.Get(ctx, p, append(opts, v3.WithPrefix())...)
		must(t, err)
		return got
	}
	same(t, "by key", values(get().Kvs), "8 7 9 6")
	same(t, "descending", values(get(v3.WithSort(v3.SortByKey, v3.SortDescend)).Kvs), "6 9 7 8")
	same(t, "by value", values(get(v3.WithSort(v3.SortByValue, v3.SortAscend)).Kvs), "6 7 8 9")
	same(t, "by creation", values(get(v3.WithSort(v3.SortByCreateRevision, v3.SortDescend)).Kvs), "6 7 8 9")
	limited := get(v3.WithLimit(2))
	same(t, "limited", line(values(limited.Kvs), limited.More, limited.Count), "8 7 true 4")
	same(t, "counted", get(v3.WithCountOnly()).Count, 4)
	same(t, "keys only", values(get(v3.WithKeysOnly()).Kvs), "   ")
	same(t, "serializable", len(get(v3.WithSerializable()).Kvs), 4)
	last, err := c.Get(ctx, p, v3.WithLastRev()...)
	must(t, err)
	same(t, "last", values(last.Kvs), "6")
	since, err := c.Get(ctx, p, v3.WithPrefix(), v3.WithMinModRev(last.Kvs[0].ModRevision))
	must(t, err)
	same(t, "since", values(since.Kvs), "6")
	from, err := c.Get(ctx, p+"c", v3.WithRange(p+"z"))
	must(t, err)
	same(t, "range", values(from.Kvs), "9 6")
}

func TestRangeStream(t *testing.T) {
	c, ctx, p := open(t)
	for i := range 100 {
		_, err := c.Put(ctx, fmt.Sprintf("%s%03d", p, i), "v")
		must(t, err)
	}
	stream, err := c.GetStream(ctx, p, v3.WithPrefix(), v3.WithLimit(60))
	must(t, err)
	got, err := v3.GetStreamToGetResponse(stream)
	must(t, err)
	same(t, "streamed", line(len(got.Kvs), got.More, got.Count, got.Header.Revision > 0), "60 true 100 true")
}

func TestErrors(t *testing.T) {
	c, ctx, p := open(t)
	put, err := c.Put(ctx, p+"a", "1")
	must(t, err)
	_, err = c.Put(ctx, "", "1")
	same(t, "empty key", errors.Is(err, rpctypes.ErrEmptyKey), true)
	_, err = c.Get(ctx, p+"a", v3.WithRev(put.Header.Revision+1000000))
	same(t, "future", errors.Is(err, rpctypes.ErrFutureRev), true)
	_, err = c.Put(ctx, p+"none", "", v3.WithIgnoreValue())
	same(t, "ignored value of none", errors.Is(err, rpctypes.ErrKeyNotFound), true)
	_, err = c.Put(ctx, p+"a", "", v3.WithLease(0x7777777777))
	same(t, "no lease", errors.Is(err, rpctypes.ErrLeaseNotFound), true)
	_, err = c.Txn(ctx).Then(v3.OpPut(p+"a", ""), v3.OpPut(p+"a", "")).Commit()
	same(t, "twice", errors.Is(err, rpctypes.ErrDuplicateKey), true)
	var many []v3.Op
	for range 129 {
		many = append(many, v3.OpGet(p+"a"))
	}
	_, err = c.Txn(ctx).Then(many...).Commit()
	same(t, "too many", errors.Is(err, rpctypes.ErrTooManyOps), true)
	_, err = c.Put(ctx, p+"a", strings.Repeat("x", 1900000))
	same(t, "too large", errors.Is(err, rpctypes.ErrRequestTooLarge), true)
	_, err = c.Revoke(ctx, 0x7777777777)
	same(t, "revoke none", errors.Is(err, rpctypes.ErrLeaseNotFound), true)
	_, err = c.Authenticate(ctx, "a", "b")
	same(t, "no auth", errors.Is(err, rpctypes.ErrAuthNotEnabled), true)
	_, err = c.MemberRemove(ctx, 1234)
	same(t, "no member", errors.Is(err, rpctypes.ErrMemberNotFound), true)
	_, err = c.MoveLeader(ctx, 1234)
	same(t, "no transferee", err != nil, true)
}

func TestCompact(t *testing.T) {
	c, ctx, p := open(t)
	first, err := c.Put(ctx, p+"a", "1")
	must(t, err)
	second, err := c.Put(ctx, p+"a", "2")
	must(t, err)
	_, err = c.Compact(ctx, second.Header.Revision, v3.WithCompactPhysical())
	must(t, err)
	_, err = c.Get(ctx, p+"a", v3.WithRev(first.Header.Revision))
	same(t, "compacted", errors.Is(err, rpctypes.ErrCompacted), true)
	_, err = c.Compact(ctx, second.Header.Revision)
	same(t, "again", errors.Is(err, rpctypes.ErrCompacted), true)
	_, err = c.Compact(ctx, second.Header.Revision+1000000)
	same(t, "future", errors.Is(err, rpctypes.ErrFutureRev), true)
	now, err := c.Get(ctx, p+"a", v3.WithRev(second.Header.Revision))
	must(t, err)
	same(t, "kept", values(now.Kvs), "2")
}

func TestTxn(t *testing.T) {
	c, ctx, p := open(t)
	_, err := c.Put(ctx, p+"a", "1")
	must(t, err)
	txn, err := c.Txn(ctx).
		If(v3.Compare(v3.Value(p+"a"), "=", "1"), v3.Compare(v3.Version(p+"b"), "=", 0), clientv3util.KeyExists(p+"a"), clientv3util.KeyMissing(p+"b")).
		Then(v3.OpPut(p+"b", "2"), v3.OpGet(p+"b"), v3.OpTxn(nil, []v3.Op{v3.OpPut(p+"c", "3")}, nil), v3.OpDelete(p+"a")).
		Else(v3.OpGet(p + "a")).Commit()
	must(t, err)
	same(t, "succeeded", txn.Succeeded, true)
	same(t, "sees its own", values(txn.Responses[1].GetResponseRange().Kvs), "2")
	same(t, "deleted", txn.Responses[3].GetResponseDeleteRange().Deleted, 1)
	other, err := c.Txn(ctx).If(v3.Compare(v3.Value(p).WithPrefix(), ">", "2")).Then().Else(v3.OpGet(p, v3.WithPrefix())).Commit()
	must(t, err)
	same(t, "failed", line(other.Succeeded, values(other.Responses[0].GetResponseRange().Kvs)), "false 2 3")
}

func collect(t *testing.T, w v3.WatchChan, count int) []string {
	t.Helper()
	var seen []string
	for len(seen) < count {
		select {
		case r, ok := <-w:
			if !ok || r.Err() != nil {
				t.Fatalf("the watch ended: %v", r.Err())
			}
			for _, e := range r.Events {
				key := string(e.Kv.Key[strings.LastIndex(string(e.Kv.Key), "/")+1:])
				prev := ""
				if e.PrevKv != nil {
					prev = "<" + string(e.PrevKv.Value)
				}
				seen = append(seen, fmt.Sprintf("%s:%s=%s%s", e.Type, key, e.Kv.Value, prev))
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing came; so far %v", seen)
		}
	}
	return seen
}

func TestWatch(t *testing.T) {
	c, ctx, p := open(t)
	first, err := c.Put(ctx, p+"a", "1")
	must(t, err)
	history := c.Watch(ctx, p, v3.WithPrefix(), v3.WithRev(first.Header.Revision), v3.WithPrevKV())
	later := c.Watch(ctx, p, v3.WithPrefix(), v3.WithFilterPut(), v3.WithCreatedNotify())
	same(t, "created", (<-later).Created, true)
	_, err = c.Put(ctx, p+"a", "2")
	must(t, err)
	_, err = c.Delete(ctx, p+"a")
	must(t, err)
	same(t, "history", collect(t, history, 3), []string{"PUT:a=1", "PUT:a=2<1", "DELETE:a=<2"})
	same(t, "filtered", collect(t, later, 1), []string{"DELETE:a="})
}

func TestWatchCompacted(t *testing.T) {
	c, ctx, p := open(t)
	_, err := c.Put(ctx, p+"a", "1")
	must(t, err)
	last, err := c.Put(ctx, p+"a", "2")
	must(t, err)
	_, err = c.Compact(ctx, last.Header.Revision)
	must(t, err)
	r := <-c.Watch(ctx, p, v3.WithPrefix(), v3.WithRev(1))
	same(t, "compacted", line(errors.Is(r.Err(), rpctypes.ErrCompacted), r.CompactRevision >= last.Header.Revision), "true true")
}

func TestWatchProgress(t *testing.T) {
	c, ctx, p := open(t)
	w := c.Watch(ctx, p, v3.WithPrefix())
	put, err := c.Put(ctx, p+"a", "1")
	must(t, err)
	collect(t, w, 1)
	must(t, c.RequestProgress(ctx))
	r := <-w
	same(t, "progress", line(r.IsProgressNotify(), r.Header.Revision >= put.Header.Revision), "true true")
}

func TestWatchFragments(t *testing.T) {
	c, ctx, p := open(t)
	big := strings.Repeat("x", 300000)
	write := func() int64 {
		var ops []v3.Op
		for i := range 4 {
			ops = append(ops, v3.OpPut(fmt.Sprint(p, i), big))
		}
		r, err := c.Txn(ctx).Then(ops...).Commit()
		must(t, err)
		return r.Header.Revision
	}
	first := write()
	write()
	write()
	w := c.Watch(ctx, p, v3.WithPrefix(), v3.WithRev(first), v3.WithFragment(), v3.WithPrevKV())
	same(t, "all", len(collect(t, w, 12)), 12)
}

func TestManyWatchersOnOneStream(t *testing.T) {
	c, ctx, p := open(t)
	var all []v3.WatchChan
	for i := range 500 {
		all = append(all, c.Watch(ctx, fmt.Sprintf("%s%d", p, i%50)))
	}
	_, err := c.Get(ctx, p)
	must(t, err)
	created := c.Watch(ctx, p+"last", v3.WithCreatedNotify())
	<-created
	for i := range 50 {
		_, err := c.Put(ctx, fmt.Sprintf("%s%d", p, i), "v")
		must(t, err)
	}
	for _, w := range all {
		collect(t, w, 1)
	}
}

func TestLease(t *testing.T) {
	c, ctx, p := open(t)
	lease, err := c.Grant(ctx, 60)
	must(t, err)
	_, err = c.Put(ctx, p+"a", "1", v3.WithLease(lease.ID))
	must(t, err)
	left, err := c.TimeToLive(ctx, lease.ID, v3.WithAttachedKeys())
	must(t, err)
	same(t, "keys", line(left.GrantedTTL, string(left.Keys[0])), "60 "+p+"a")
	once, err := c.KeepAliveOnce(ctx, lease.ID)
	must(t, err)
	same(t, "kept", once.TTL, 60)
	kept, err := c.KeepAlive(ctx, lease.ID)
	must(t, err)
	same(t, "kept on", (<-kept).TTL, 60)
	all, err := c.Leases(ctx)
	must(t, err)
	found := false
	for _, l := range all.Leases {
		found = found || l.ID == lease.ID
	}
	same(t, "listed", found, true)
	_, err = c.Revoke(ctx, lease.ID)
	must(t, err)
	got, err := c.Get(ctx, p+"a")
	must(t, err)
	same(t, "gone", len(got.Kvs), 0)
	none, err := c.TimeToLive(ctx, lease.ID)
	must(t, err)
	same(t, "no time", none.TTL, -1)
	_, err = c.KeepAliveOnce(ctx, lease.ID)
	same(t, "not kept", errors.Is(err, rpctypes.ErrLeaseNotFound), true)
}

func TestLeaseExpires(t *testing.T) {
	c, ctx, p := open(t)
	lease, err := c.Grant(ctx, 1)
	must(t, err)
	put, err := c.Put(ctx, p+"a", "1", v3.WithLease(lease.ID))
	must(t, err)
	w := c.Watch(ctx, p+"a", v3.WithRev(put.Header.Revision+1))
	same(t, "expired", collect(t, w, 1), []string{"DELETE:a="})
}

func TestNamespace(t *testing.T) {
	c, ctx, p := open(t)
	kv, w := namespace.NewKV(c.KV, p), namespace.NewWatcher(c.Watcher, p)
	seen := w.Watch(ctx, "", v3.WithPrefix(), v3.WithCreatedNotify())
	<-seen
	_, err := kv.Put(ctx, "a", "1")
	must(t, err)
	got, err := kv.Get(ctx, "a")
	must(t, err)
	same(t, "inside", string(got.Kvs[0].Key), "a")
	outside, err := c.Get(ctx, p+"a")
	must(t, err)
	same(t, "outside", values(outside.Kvs), "1")
	same(t, "watched", collect(t, seen, 1), []string{"PUT:a=1"})
	txn, err := kv.Txn(ctx).If(v3.Compare(v3.Value("a"), "=", "1")).Then(v3.OpDelete("a")).Commit()
	must(t, err)
	same(t, "txn", txn.Succeeded, true)
}

func TestLeasing(t *testing.T) {
	c, ctx, p := open(t)
	one, closeOne, err := leasing.NewKV(c, p+"leases/")
	must(t, err)
	defer closeOne()
	other, closeOther, err := leasing.NewKV(c, p+"leases/")
	must(t, err)
	defer closeOther()
	_, err = c.Put(ctx, p+"a", "1")
	must(t, err)
	for range 3 {
		got, err := one.Get(ctx, p+"a")
		must(t, err)
		same(t, "cached", values(got.Kvs), "1")
	}
	_, err = other.Put(ctx, p+"a", "2")
	must(t, err)
	got, err := one.Get(ctx, p+"a")
	must(t, err)
	same(t, "after another's write", values(got.Kvs), "2")
	_, err = one.Delete(ctx, p+"a")
	must(t, err)
	got, err = other.Get(ctx, p+"a")
	must(t, err)
	same(t, "after another's delete", len(got.Kvs), 0)
}

func TestOrdering(t *testing.T) {
	c, ctx, p := open(t)
	kv := ordering.NewKV(c.KV, func(op v3.Op, resp v3.OpResponse, prevRev int64) error { return errors.New("went back") })
	_, err := kv.Do(ctx, v3.OpPut(p+"a", "1"))
	must(t, err)
	for range 20 {
		got, err := kv.Get(ctx, p+"a")
		must(t, err)
		same(t, "value", values(got.Kvs), "1")
	}
}

func TestMirror(t *testing.T) {
	c, ctx, p := open(t)
	for i := range 5 {
		_, err := c.Put(ctx, fmt.Sprint(p, i), "v")
		must(t, err)
	}
	s := mirror.NewSyncer(c, p, 0)
	base, errs := s.SyncBase(ctx)
	count := 0
	for r := range base {
		count += len(r.Kvs)
	}
	must(t, <-errs)
	same(t, "base", count, 5)
	updates := s.SyncUpdates(ctx)
	_, err := c.Put(ctx, p+"x", "9")
	must(t, err)
	same(t, "updates", collect(t, updates, 1), []string{"PUT:x=9"})
}

func TestKubernetes(t *testing.T) {
	c, ctx, p := open(t)
	k := &kubernetes.Client{Client: c}
	k.Kubernetes = k
	put, err := k.OptimisticPut(ctx, p+"a", []byte("1"), 0, kubernetes.PutOptions{})
	must(t, err)
	same(t, "created", put.Succeeded, true)
	again, err := k.OptimisticPut(ctx, p+"a", []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true})
	must(t, err)
	same(t, "refused", line(again.Succeeded, string(again.KV.Value)), "false 1")
	list, err := k.List(ctx, p, kubernetes.ListOptions{Limit: 10})
	must(t, err)
	same(t, "listed", list.Count, 1)
	count, err := k.Count(ctx, p, kubernetes.CountOptions{})
	must(t, err)
	same(t, "counted", count, 1)
	gone, err := k.OptimisticDelete(ctx, p+"a", again.KV.ModRevision, kubernetes.DeleteOptions{})
	must(t, err)
	same(t, "deleted", gone.Succeeded, true)
}

func TestClusterAndMaintenance(t *testing.T) {
	c, ctx, _ := open(t)
	members, err := c.MemberList(ctx)
	must(t, err)
	same(t, "members", len(members.Members) >= 1, true)
	must(t, c.Sync(ctx))
	status, err := c.Status(ctx, addresses()[0])
	must(t, err)
	same(t, "status", line(status.Leader != 0, status.DbSize > 0, strings.HasPrefix(status.Version, "3.")), "true true true")
	alarms, err := c.AlarmList(ctx)
	must(t, err)
	same(t, "alarms", len(alarms.Alarms), 0)
	_, err = c.Defragment(ctx, addresses()[0])
	must(t, err)
	hash, err := c.HashKV(ctx, addresses()[0], 0)
	must(t, err)
	same(t, "hash", hash.Hash != 0, true)
	auth, err := c.AuthStatus(ctx)
	must(t, err)
	same(t, "auth", auth.Enabled, false)
}

func TestRequireLeader(t *testing.T) {
	c, ctx, p := open(t)
	_, err := c.Put(v3.WithRequireLeader(ctx), p+"a", "1")
	must(t, err)
	w := c.Watch(v3.WithRequireLeader(ctx), p+"a", v3.WithCreatedNotify())
	same(t, "created", (<-w).Created, true)
}
