// Uses every feature of the npm package etcd3 against one endpoint.
//
//   node etcd3.mjs HOST:PORT
//
// The package is found in the folder from which node is started. Each feature stands
// for itself: one that fails is reported and the others still run. Watches go through
// a relay in this process, which cuts and holds back their connections.

import assert from 'node:assert/strict';
import net from 'node:net';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.cwd(), 'package.json'));
const {
  Etcd3, EtcdLeaseInvalidError, EtcdLockFailedError, GRPCInvalidArgumentError, GRPCOutOfRangeError,
  GRPCUnavailableError, GRPCDeadlineExceededError, GRPCFailedPreconditionError, NotCampaigningError,
  STMConflictError, Range, ClientClosedError,
} = require('etcd3');

const [endpoint] = process.argv.slice(2);
const DEADLINE_MS = 20_000;

// A new one for each feature: an error that the package does not expect blocks its client.
let client;
const features = [];
const feature = (name, run) => features.push({ name, run });

/** Resolves when the condition holds, rejects at the deadline. */
async function until(what, holds) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not so after ${DEADLINE_MS} ms: ${what}`);
    await new Promise(resolve => setTimeout(resolve, 10));
  }
}

/** Resolves with the arguments of the emitter's next event of that name. */
function next(emitter, event) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no event ${event}`)), DEADLINE_MS);
    emitter.once(event, (...values) => {
      clearTimeout(late);
      resolve(values);
    });
  });
}

/** A relay to the endpoint whose connections can be cut, refused and held back. */
async function relay() {
  const [host, port] = endpoint.split(':');
  const pairs = new Set();
  let refuses = false;
  const server = net.createServer(inner => {
    if (refuses) return inner.destroy();
    const outer = net.connect(Number(port), host);
    const pair = { inner, outer };
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      inner.destroy();
      outer.destroy();
    };
    for (const [from, to] of [[inner, outer], [outer, inner]]) from.on('error', end).on('close', end).pipe(to);
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  return {
    endpoint: `127.0.0.1:${server.address().port}`,
    refuse(value) { refuses = value; },
    cut() { for (const { inner, outer } of pairs) { inner.destroy(); outer.destroy(); } },
    hold() { for (const { inner, outer } of pairs) { outer.unpipe(inner); outer.pause(); } },
    release() { for (const { inner, outer } of pairs) { outer.pipe(inner); } },
    close() { this.cut(); server.close(); },
  };
}

feature('put and get', async ns => {
  assert.equal(await ns.get('missing'), null);
  assert.equal(await ns.get('missing').exists(), false);
  await ns.put('text').value('a value, ünïcode');
  await ns.put('number').value(42);
  await ns.put('json').value(JSON.stringify({ a: [1, 2] }));
  await ns.put('bytes').value(Buffer.from([0, 255, 1]));
  await ns.put('empty').value('');
  assert.equal(await ns.get('text'), 'a value, ünïcode');
  assert.equal(await ns.get('text').string(), 'a value, ünïcode');
  assert.equal(await ns.get('number').number(), 42);
  assert.deepEqual(await ns.get('json').json(), { a: [1, 2] });
  assert.deepEqual(await ns.get('bytes').buffer(), Buffer.from([0, 255, 1]));
  assert.equal(await ns.get('empty').string(), '');
  assert.equal(await ns.get('text').exists(), true);
  const exact = await ns.get('text').serializable(true).exec();
  assert.equal(exact.kvs[0].version, '1');
  assert.equal(exact.kvs[0].create_revision, exact.kvs[0].mod_revision);
});

feature('put with options', async ns => {
  await ns.put('k').value('one');
  const previous = await ns.put('k').value('two').getPrevious();
  assert.equal(previous.value.toString(), 'one');
  const before = await ns.get('k').exec();
  await ns.put('k').touch();
  const after = await ns.get('k').exec();
  assert.equal(after.kvs[0].value.toString(), 'two');
  assert.equal(Number(after.kvs[0].version), Number(before.kvs[0].version) + 1);
  const lease = ns.lease(60, { autoKeepAlive: false });
  await ns.put('k').value('leased').lease(lease.grant());
  await ns.put('k').value('still leased').ignoreLease();
  assert.equal((await ns.get('k').exec()).kvs[0].lease, await lease.grant());
  await lease.revoke();
  assert.equal(await ns.get('k'), null);
});

feature('get at a revision and between revisions', async ns => {
  const first = await ns.put('k').value('old');
  const second = await ns.put('k').value('new');
  await ns.put('l').value('other');
  assert.equal(await ns.get('k').revision(first.header.revision), 'old');
  assert.equal(await ns.get('k').revision(second.header.revision), 'new');
  assert.deepEqual(await ns.getAll().minModRevision(Number(second.header.revision) + 1).keys(), ['l']);
  assert.deepEqual(await ns.getAll().maxModRevision(second.header.revision).keys(), ['k']);
  assert.deepEqual(await ns.getAll().minCreateRevision(second.header.revision).keys(), ['l']);
  assert.deepEqual(await ns.getAll().maxCreateRevision(first.header.revision).keys(), ['k']);
});

feature('ranges', async ns => {
  for (const [key, value] of [['a', 3], ['b', 1], ['c', 2], ['ca', 4]]) await ns.put(key).value(value);
  assert.deepEqual(await ns.getAll().strings(), { a: '3', b: '1', c: '2', ca: '4' });
  assert.deepEqual(await ns.getAll().numbers(), { a: 3, b: 1, c: 2, ca: 4 });
  assert.deepEqual(await ns.getAll().json(), { a: 3, b: 1, c: 2, ca: 4 });
  assert.deepEqual(Object.keys(await ns.getAll().prefix('c').buffers()), ['c', 'ca']);
  assert.deepEqual(await ns.getAll().inRange({ start: 'a', end: 'c' }).keys(), ['a', 'b']);
  assert.deepEqual(await ns.getAll().inRange(Range.prefix('c')).keys(), ['c', 'ca']);
  assert.deepEqual((await ns.getAll().keyBuffers()).map(String), ['a', 'b', 'c', 'ca']);
  assert.equal(await ns.getAll().count(), 4);
  assert.deepEqual(await ns.getAll().limit(2).keys(), ['a', 'b']);
  assert.deepEqual(await ns.getAll().sort('Value', 'Ascend').keys(), ['b', 'c', 'a', 'ca']);
  assert.deepEqual(await ns.getAll().sort('Value', 'Descend').limit(1).keys(), ['ca']);
  assert.deepEqual(await ns.getAll().sort('Key', 'Descend').keys(), ['ca', 'c', 'b', 'a']);
  await ns.put('a').value(5);
  assert.deepEqual(await ns.getAll().sort('Mod', 'Descend').limit(1).keys(), ['a']);
  assert.deepEqual(await ns.getAll().sort('Create', 'Ascend').limit(1).keys(), ['a']);
  assert.deepEqual(await ns.getAll().sort('Version', 'Descend').limit(1).keys(), ['a']);
  const page = await ns.getAll().limit(1).exec();
  assert.equal(page.more, true);
  assert.equal(page.count, '4');
});

feature('delete', async ns => {
  for (const key of ['a', 'b', 'c', 'd', 'e1', 'e2', 'f']) await ns.put(key).value(key);
  assert.equal((await ns.delete().key('a').exec()).deleted, '1');
  assert.equal((await ns.delete().key('a').exec()).deleted, '0');
  const previous = await ns.delete().key('b').getPrevious();
  assert.deepEqual(previous.map(kv => kv.value.toString()), ['b']);
  assert.equal((await ns.delete().range(new Range('c', 'e')).exec()).deleted, '2');
  assert.equal((await ns.delete().prefix('e').exec()).deleted, '2');
  assert.equal((await ns.delete().all().exec()).deleted, '1');
});

feature('transactions', async ns => {
  await ns.put('k').value('one');
  const hit = await ns.if('k', 'Value', '==', 'one').and('k', 'Version', '==', 1).and('none', 'Create', '==', 0)
    .then(ns.put('k').value('two'), ns.get('k')).else(ns.get('none')).commit();
  assert.equal(hit.succeeded, true);
  assert.equal(hit.responses.length, 2);
  assert.equal(hit.responses[1].response_range.kvs[0].value.toString(), 'two');
  const miss = await ns.if('k', 'Value', '!=', 'two').then(ns.delete().key('k')).else(ns.get('k')).commit();
  assert.equal(miss.succeeded, false);
  assert.equal(miss.responses[0].response_range.kvs[0].value.toString(), 'two');
  const { kvs: [{ mod_revision: revision }] } = await ns.get('k').exec();
  for (const [operator, succeeded] of [['<', false], ['==', true], ['>', false], ['!=', false]]) {
    assert.equal((await ns.if('k', 'Mod', operator, revision).commit()).succeeded, succeeded, operator);
  }
  assert.equal((await ns.if('none', 'Value', '!=', 'x').commit()).succeeded, false);
  await assert.rejects(ns.if('k', 'Version', '>', 0).then(ns.put('d').value(1), ns.put('d').value(2)).commit(),
    GRPCInvalidArgumentError);
});

feature('software transactional memory', async ns => {
  await ns.put('from').value(100);
  await ns.put('to').value(0);
  // At the strictest isolation the package refuses keys that were not last written together.
  for (const isolation of [1, 2, 3]) {
    await ns.stm({ isolation, retries: 5 }).transact(async tx => {
      const from = await tx.get('from').number();
      const to = await tx.get('to').number();
      await tx.put('from').value(from - 10);
      await tx.put('to').value(to + 10);
      await tx.delete().key('none');
    });
  }
  assert.deepEqual(await ns.getAll().numbers(), { from: 70, to: 30 });
  await ns.put('counter').value(0);
  await Promise.all(Array.from({ length: 8 }, () => ns.stm({ isolation: 0, retries: 100 }).transact(async tx => {
    await tx.put('counter').value((await tx.get('counter').number()) + 1);
  })));
  assert.equal(await ns.get('counter').number(), 8);
  await assert.rejects(ns.stm({ retries: 0 }).transact(async tx => {
    await tx.get('counter').number();
    await ns.put('counter').value('meanwhile');
    await tx.put('counter').value('stale');
  }), STMConflictError);
  assert.equal(await ns.get('counter'), 'meanwhile');
});

feature('leases', async ns => {
  const lease = ns.lease(1);
  const id = await lease.grant();
  await lease.put('kept').value('alive');
  const times = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  assert.deepEqual(times.keys.map(String), [`${ns.prefix}kept`]);
  assert.ok(Number(times.grantedTTL) >= 1);
  assert.ok((await client.leaseClient.leaseLeases()).leases.some(one => one.ID === id));
  // It outlives what was granted only by what keeps it alive.
  const started = Date.now();
  while (Date.now() - started < 3500) {
    const [answer] = await next(lease, 'keepaliveSucceeded');
    assert.equal(answer.ID, id);
  }
  assert.equal(await ns.get('kept'), 'alive');
  assert.equal((await lease.keepaliveOnce()).ID, id);
  await lease.revoke();
  assert.equal(await ns.get('kept'), null);
  assert.equal(lease.revoked(), true);
});

feature('a lease that runs out', async ns => {
  const lease = ns.lease(1, { autoKeepAlive: false });
  await lease.put('short').value('x');
  const watcher = await ns.watch().key('short').create();
  await next(watcher, 'delete');
  await watcher.cancel();
  assert.equal(await ns.get('short'), null);
  const lost = next(lease, 'lost');
  await assert.rejects(lease.keepaliveOnce(), EtcdLeaseInvalidError);
  assert.ok((await lost)[0] instanceof EtcdLeaseInvalidError);
});

feature('a lease that is revoked by another', async ns => {
  const lease = ns.lease(3);
  const lost = next(lease, 'lost');
  await client.leaseClient.leaseRevoke({ ID: await lease.grant() });
  assert.ok((await lost)[0] instanceof EtcdLeaseInvalidError);
  await assert.rejects(lease.put('k').value('x').exec(), EtcdLeaseInvalidError);
});

feature('watch', async ns => {
  const first = await ns.put('w/a').value('one');
  await ns.put('w/a').value('two');
  await ns.delete().key('w/a');
  const seen = [];
  const watcher = await ns.watch().prefix('w/').withPreviousKV().startRevision(first.header.revision).create();
  watcher.on('put', (kv, previous) => seen.push(['put', `${kv.key}`, `${kv.value}`, previous && `${previous.value}`]));
  watcher.on('delete', (kv, previous) => seen.push(['delete', `${kv.key}`, previous && `${previous.value}`]));
  await ns.put('w/b').value('three');
  await ns.put('elsewhere').value('unseen');
  await ns.put('w/c').value('four');
  await until('five changes are seen', () => seen.length >= 5);
  assert.deepEqual(seen.map(change => change.filter(part => part)), [
    ['put', 'w/a', 'one'], ['put', 'w/a', 'two', 'one'], ['delete', 'w/a', 'two'], ['put', 'w/b', 'three'],
    ['put', 'w/c', 'four'],
  ]);
  await watcher.cancel();
  await ns.put('w/d').value('after the end');
  assert.equal(seen.length, 5);
});

feature('watch with filters', async ns => {
  const puts = [];
  const deletes = [];
  const one = await ns.watch().prefix('').only('put').create();
  const other = await ns.watch().inRange({ start: 'a', end: 'b' }).only('delete').create();
  one.on('data', ({ events }) => puts.push(...events.map(event => `${event.type} ${event.kv.key}`)));
  other.on('data', ({ events }) => deletes.push(...events.map(event => `${event.type} ${event.kv.key}`)));
  await ns.put('a').value(1);
  await ns.delete().key('a');
  await ns.put('b').value(1);
  await ns.delete().key('b');
  await ns.put('end').value(1);
  await until('the puts and the delete are seen', () => puts.length >= 3 && deletes.length >= 1);
  assert.deepEqual(puts, ['Put a', 'Put b', 'Put end']);
  assert.deepEqual(deletes, ['Delete a']);
  await Promise.all([one.cancel(), other.cancel()]);
});

feature('watch from a compacted revision', async ns => {
  const first = await ns.put('k').value(1);
  await ns.put('k').value(2);
  const last = await ns.put('k').value(3);
  await client.kv.compact({ revision: last.header.revision, physical: true });
  const watcher = ns.watch().key('k').startRevision(first.header.revision).watcher();
  const [error] = await next(watcher, 'error');
  assert.match(error.message, /^Watcher canceled/);
  await assert.rejects(ns.get('k').revision(first.header.revision).exec(), GRPCOutOfRangeError);
  await assert.rejects(client.kv.compact({ revision: first.header.revision }), GRPCOutOfRangeError);
});

feature('watch through lost connections', async ns => {
  const way = await relay();
  const far = new Etcd3({ hosts: `http://${way.endpoint}` });
  try {
    const there = far.namespace(ns.prefix);
    const watcher = await there.watch().prefix('').create();
    const seen = [];
    watcher.on('put', kv => seen.push(`${kv.value}`));
    for (let round = 0; round < 3; round++) {
      await ns.put('k').value(`${round} before`);
      await until('what came before is seen', () => seen.length >= 3 * round + 1);
      const gone = next(watcher, 'disconnected');
      way.refuse(true);
      way.cut();
      await gone;
      await ns.put('k').value(`${round} meanwhile`);
      way.refuse(false);
      await next(watcher, 'connected');
      await ns.put('k').value(`${round} after`);
      await until('nothing is missed', () => seen.length >= 3 * round + 3);
    }
    assert.deepEqual(seen, [0, 1, 2].flatMap(round => ['before', 'meanwhile', 'after'].map(when => `${round} ${when}`)));
    await watcher.cancel();
  } finally {
    far.close();
    way.close();
  }
});

feature('watch that does not keep up', async ns => {
  const way = await relay();
  const far = new Etcd3({ hosts: `http://${way.endpoint}` });
  try {
    const watcher = await far.namespace(ns.prefix).watch().prefix('').create();
    const seen = [];
    watcher.on('put', kv => seen.push(Number(`${kv.key}`)));
    // Nothing is read while 3 MiB come, which is more than a stream may have on its way
    // and less than the package takes in one message. All must come, and in order.
    way.hold();
    const value = Buffer.alloc(64 * 1024, 'x');
    for (let number = 0; number < 48; number++) await ns.put(`${number}`).value(value);
    way.release();
    await until('every change is seen', () => seen.length >= 48);
    assert.deepEqual(seen, Array.from({ length: 48 }, (_, number) => number));
    await watcher.cancel();
    await ns.delete().all();
  } finally {
    far.close();
    way.close();
  }
});

feature('many watchers in one stream', async ns => {
  const watchers = await Promise.all(Array.from({ length: 50 }, (_, at) => ns.watch().key(`${at % 10}`).create()));
  let seen = 0;
  for (const watcher of watchers) watcher.on('put', () => { seen++; });
  for (let key = 0; key < 10; key++) await ns.put(`${key}`).value('x');
  await until('every watcher sees its key', () => seen >= 50);
  for (const watcher of watchers) await watcher.cancel();
  assert.equal(seen, 50);
});

feature('locks', async ns => {
  const lock = ns.lock('resource').ttl(5);
  await lock.acquire();
  assert.ok(await lock.leaseId());
  await assert.rejects(ns.lock('resource').ttl(5).acquire(), EtcdLockFailedError);
  await lock.release();
  const result = await ns.lock('resource').do(async () => {
    await assert.rejects(ns.lock('resource').acquire(), EtcdLockFailedError);
    return 'done';
  });
  assert.equal(result, 'done');
  await assert.rejects(ns.lock('resource').do(() => { throw new Error('in the section'); }), /in the section/);
  await ns.lock('resource').do(() => undefined);
});

feature('elections', async ns => {
  const election = ns.election('job', 5);
  assert.equal(await election.leader(), undefined);
  const observer = await election.observe();
  const changes = [];
  observer.on('change', value => changes.push(value));
  const one = election.campaign('one');
  await one.wait();
  assert.equal(await election.leader(), 'one');
  await until('the observer sees the first', () => observer.leader() === 'one');
  const two = election.campaign('two');
  let leads = false;
  two.on('elected', () => { leads = true; });
  await next(two, '_isWaiting');
  await one.proclaim('one again');
  await until('the new value is seen', () => observer.leader() === 'one again');
  assert.equal(leads, false);
  await one.resign();
  await until('the second leads', () => leads);
  await until('the observer sees it', () => observer.leader() === 'two');
  assert.equal(await election.leader(), 'two');
  await assert.rejects(one.proclaim('too late'), NotCampaigningError);
  await two.resign();
  await until('nobody leads', () => observer.hasLeader === false);
  await observer.cancel();
  assert.deepEqual(changes.filter(value => value), ['one', 'one again', 'two']);
});

feature('namespaces', async ns => {
  const inner = ns.namespace('inner/');
  await inner.put('k').value('inside');
  await ns.put('k').value('outside');
  assert.equal(await inner.get('k'), 'inside');
  assert.equal(await ns.get('inner/k'), 'inside');
  assert.deepEqual(await inner.getAll().strings(), { k: 'inside' });
  assert.equal((await inner.if('k', 'Value', '==', 'inside').then(inner.delete().key('k')).commit()).succeeded, true);
  assert.equal((await inner.delete().all().exec()).deleted, '0');
  assert.equal(await ns.get('k'), 'outside');
});

feature('maintenance and membership', async () => {
  const status = await client.maintenance.status();
  assert.match(status.version, /^3\.\d+\.\d+/);
  assert.notEqual(status.leader, '0');
  assert.ok(Number(status.dbSize) > 0);
  assert.ok(Number(status.raftIndex) > 0);
  const { members } = await client.cluster.memberList({});
  assert.ok(members.length >= 1);
  assert.ok(members.some(member => member.ID === status.leader));
  assert.ok(members.every(member => member.clientURLs.length > 0 && member.peerURLs.length > 0));
  assert.deepEqual((await client.maintenance.alarm({ action: 'Get' })).alarms, []);
  assert.ok(Number((await client.maintenance.hash()).hash) > 0);
  await client.maintenance.defragment();
});

feature('a snapshot', async () => {
  const stream = await client.maintenance.snapshot();
  let received = 0;
  let announced;
  await new Promise((resolve, reject) => stream
    .on('data', ({ blob, remaining_bytes: remaining }) => {
      received += blob.length;
      announced ??= Number(remaining) + blob.length;
    })
    .on('end', resolve).on('error', reject));
  // The checksum comes in the last message, after what remained.
  assert.ok(received === announced || received === announced + 32, `${received} of ${announced}`);
  assert.equal(received % 512, 32);
});

feature('errors', async ns => {
  await assert.rejects(client.put('').value('x').exec(), GRPCInvalidArgumentError);
  await assert.rejects(client.kv.range({ key: Buffer.from('k'), revision: '999999999' }), GRPCOutOfRangeError);
  await assert.rejects(client.kv.compact({ revision: '999999999' }), GRPCOutOfRangeError);
  await assert.rejects(ns.put('k').value('x').lease('123456').exec(), EtcdLeaseInvalidError);
  await assert.rejects(client.leaseClient.leaseRevoke({ ID: '123456' }), EtcdLeaseInvalidError);
  const id = '7777777';
  await client.leaseClient.leaseGrant({ ID: id, TTL: 60 });
  await assert.rejects(client.leaseClient.leaseGrant({ ID: id, TTL: 60 }), GRPCFailedPreconditionError);
  await client.leaseClient.leaseRevoke({ ID: id });
  const nowhere = new Etcd3({ hosts: 'http://127.0.0.1:1' });
  await assert.rejects(nowhere.get('k').exec(), GRPCUnavailableError);
  nowhere.close();
  await assert.rejects(ns.get('k').options({ deadline: Date.now() - 1 }).exec(), GRPCDeadlineExceededError);
  const closed = new Etcd3({ hosts: `http://${endpoint}` });
  await closed.get('k');
  closed.close();
  await assert.rejects(closed.get('k').exec(), ClientClosedError);
});

let failed = 0;
for (const [at, { name, run }] of features.entries()) {
  client = new Etcd3({ hosts: `http://${endpoint}` });
  const ns = client.namespace(`etcd3/${process.pid}/${at}/`);
  const started = Date.now();
  let late;
  try {
    const limit = new Promise((_, reject) => {
      late = setTimeout(() => reject(new Error('it did not come to an end')), 3 * DEADLINE_MS);
    });
    await Promise.race([run(ns), limit]);
    console.log(`ok      ${name} (${Date.now() - started} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name} (${Date.now() - started} ms): ${error.stack}`);
  } finally {
    clearTimeout(late);
    client.close();
  }
}
console.log(`${features.length - failed} of ${features.length} features`);
process.exit(failed === 0 ? 0 : 1);
