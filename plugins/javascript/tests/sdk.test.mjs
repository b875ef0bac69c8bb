// Tests of the SDK, through the contract's columns: `node --test plugins/javascript/tests`.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { bytes, json, plugin, text } from '../sdk/index.js';

const NONE = -(2n ** 63n);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

function column(items) {
  const encoded = items.map((item) => (typeof item === 'string' ? encoder.encode(item) : item));
  let end = 0;
  return { data: Uint8Array.from(encoded.flatMap((item) => [...item])), ends: Uint32Array.from(encoded, (item) => (end += item.length)) };
}

function items({ data, ends }) {
  return [...ends].map((end, i) => decoder.decode(data.subarray(i === 0 ? 0 : ends[i - 1], end)));
}

function records(payloads) {
  const nulls = payloads.flatMap((payload, i) => (payload === null ? [i] : []));
  return {
    partitions: new Uint32Array(payloads.length),
    offsets: BigUint64Array.from(payloads, (_, i) => BigInt(i)),
    appendTimes: BigInt64Array.from(payloads, (_, i) => BigInt(i * 1000)),
    keys: column(payloads.map(() => '')),
    payloads: column(payloads.map((payload) => payload ?? '')),
    nullKeys: Uint32Array.from(payloads.keys()),
    nullPayloads: Uint32Array.from(nulls),
    headers: undefined,
  };
}

/** `keys`: `{name, value, timer, events: [[value, watermark]]}` */
function folding(keys) {
  const events = keys.flatMap(({ events }) => events);
  let end = 0;
  return {
    keys: column(keys.map(({ name }) => name)),
    valuePresent: Uint8Array.from(keys, ({ value }) => (value === undefined ? 0 : 1)),
    values: column(keys.map(({ value }) => value ?? '')),
    timers: BigInt64Array.from(keys, ({ timer }) => timer ?? NONE),
    eventEnds: Uint32Array.from(keys, ({ events }) => (end += events.length)),
    eventValues: column(events.map(([value]) => value)),
    eventTimes: BigInt64Array.from(events, (_, i) => BigInt(i)),
    watermarks: BigInt64Array.from(events, ([, watermark]) => watermark ?? NONE),
    appendTimes: BigInt64Array.from(events, () => 7n),
    partitions: new Uint32Array(events.length),
    offsets: BigUint64Array.from(events, (_, i) => BigInt(i)),
    indexes: new Uint32Array(events.length),
  };
}

function firing(keys) {
  let end = 0;
  return {
    keys: column(keys.map(({ name }) => name)),
    valuePresent: Uint8Array.from(keys, ({ value }) => (value === undefined ? 0 : 1)),
    values: column(keys.map(({ value }) => value ?? '')),
    listEnds: Uint32Array.from(keys, ({ items = [] }) => (end += items.length)),
    listItems: column(keys.flatMap(({ items = [] }) => items)),
    timers: BigInt64Array.from(keys, ({ timer }) => timer),
  };
}

const nothing = () => {};
const tables = { a: { key: { k: 'text' }, columns: { n: 'integer' } }, b: { key: { k: 'text' } }, j: { key: { k: 'text' }, columns: { j: 'json' } } };

function configured(definition, config = {}) {
  const mapper = plugin({ describe: { tables }, map: nothing, onEvent: nothing, onTimer: nothing, ...definition });
  mapper.configure(JSON.stringify(config));
  return mapper;
}

test('records become events, and a rejected one leaves none', () => {
  const mapper = configured({
    event: text,
    map(record, out, { prefix }) {
      const { user, times } = record.json();
      for (const time of times) out.push(prefix + user, time, 'ü');
      if (user === 'b') throw new Error('no b');
    },
  }, { prefix: '>' });
  const many = [...Array(100).keys()].map((i) => JSON.stringify({ user: `u${i}`, times: [i, -i] }));
  const given = mapper.mapRecords(records([...many, '{"user":"b","times":[1,2]}', null, Uint8Array.of(0xff, 0xc3), 'ä{', '{"user":"日本","times":[5]}']));
  assert.deepEqual(given.rejections.map(({ item }) => item), [100, 101, 102, 103]);
  assert.deepEqual(given.rejections.slice(0, 3).map(({ reason }) => reason), ['no b', 'payload is missing: the record is a tombstone', 'payload is not UTF-8']);
  assert.match(given.rejections[3].reason, /^payload is not JSON: /);
  assert.equal(given.records.length, 201);
  assert.deepEqual([items(given.keys)[3], items(given.keys)[200], items(given.values)[0]], ['>u1', '>日本', 'ü']);
  assert.deepEqual([...given.eventTimes].slice(0, 4), [0n, 0n, 1n, -1n]);
});

test('a fold stops before an event whose watermark is at the timer', () => {
  const mapper = configured({
    onEvent(key, event) {
      key.put((key.value() ?? 0) + event.value());
      if (event.value() === 5) key.setTimer(20);
    },
  });
  const given = mapper.fold(folding([
    { name: 'due at once', timer: 10n, events: [['1', 10n], ['1', 11n]] },
    { name: 'due later', events: [['1', undefined], ['5', 19n], ['1', 19n], ['1', 20n]] },
    { name: 'never', value: '40', events: [['1', 99n], ['1', 99n]] },
    { name: 'beyond a number', timer: 2n ** 63n - 1n, events: [['1', 99n]] },
  ]));
  assert.deepEqual([...given.consumed], [0, 3, 2, 1]);
  assert.deepEqual([...given.valueChanges], [0, 1, 1, 1]);
  assert.deepEqual(items(given.values), ['', '7', '42', '1']);
  assert.deepEqual([...given.timers], [10n, 20n, NONE, 2n ** 63n - 1n]);
});

test('what a rejected event did is undone', () => {
  const mapper = configured({
    item: text,
    onEvent(key, event) {
      const order = event.value();
      if (order.includes('c')) key.clear();
      key.put(order);
      key.append(order);
      key.setTimer(order.length);
      key.row('a', { k: order, n: null });
      key.log('info', order);
      if (order.includes('!')) throw new Error(order);
    },
  });
  const given = mapper.fold(folding([
    { name: 'x', events: [['"a"'], ['"b!"'], ['"dd"']].map(([v]) => [v, undefined]) },
    { name: 'y', value: '"old"', timer: 9n, events: [['"c!"', undefined]] },
    { name: 'z', events: [['"e"', undefined], ['"c"', undefined], ['"f!"', undefined], ['"g"', undefined]] },
  ]));
  assert.deepEqual(given.rejections, [{ item: 1, reason: 'b!' }, { item: 3, reason: 'c!' }, { item: 6, reason: 'f!' }]);
  assert.deepEqual([...given.consumed], [3, 1, 4]);
  assert.deepEqual([...given.valueChanges], [1, 0, 1]);
  assert.deepEqual(items(given.values), ['"dd"', '', '"g"']);
  assert.deepEqual([...given.listChanges], [1, 0, 3]);
  assert.deepEqual([...given.listEnds], [2, 2, 4]);
  assert.deepEqual(items(given.listItems), ['a', 'dd', 'c', 'g']);
  assert.deepEqual([...given.timers], [2n, 9n, 1n]);
  assert.deepEqual([...given.rows[0].items], [0, 2, 4, 5, 7]);
  assert.deepEqual([...given.rows[0].columns[1].nulls], [0, 1, 2, 3, 4]);
  assert.equal(given.logs.length, 8);
});

test('rows of an event leave in the order in which they were emitted', () => {
  const mapper = configured({
    onEvent(key, event) {
      for (const table of event.value()) key.row(table, table === 'a' ? { k: 'x', n: 2n ** 60n } : { k: 'y' });
    },
  });
  const given = mapper.fold(folding([{ name: 'x', events: [['"ab"', undefined], ['"ba"', undefined], ['"aab"', undefined]] }]));
  const batches = given.rows.map(({ table, items }) => [table, ...items]);
  assert.deepEqual(batches, [[0, 0, 2, 2], [1, 0, 1, 2], [0, 1]]);
  assert.deepEqual([...given.rows[0].columns[1].data.val], [2n ** 60n, 2n ** 60n, 2n ** 60n]);
});

test('a list is read when the timer fires, and a rejected firing clears the state', () => {
  const mapper = configured({
    onTimer(key, time) {
      if (key.name === 'bad') throw new TypeError('oh');
      key.row('a', { k: key.items().join(), n: time });
      if (key.name === 'again') key.setTimer(time + 1);
      if (key.name === 'early') key.setTimer(time);
      if (key.name !== 'kept') key.clear();
    },
  });
  const given = mapper.onTimer(firing([
    { name: 'x', value: '1', items: ['1', '"b"'], timer: 5n },
    { name: 'bad', items: ['2'], timer: 6n },
    { name: 'again', timer: 7n },
    { name: 'early', timer: 7n },
    { name: 'kept', items: ['3'], timer: 8n },
  ]));
  assert.deepEqual([...given.valueChanges], [2, 2, 2, 2, 0]);
  assert.deepEqual([...given.listChanges], [2, 2, 2, 2, 0]);
  assert.deepEqual([...given.timers], [NONE, NONE, 8n, NONE, NONE]);
  assert.deepEqual(items(given.rows[0].columns[0].data.val), ['1,b', '', '3']);
  assert.deepEqual(given.rejections.map(({ reason }) => reason), ['TypeError: oh', 'the timer is set for 7: in onTimer it must be later than the timer that fired (7)']);
});

test('cells are checked against the description', () => {
  const types = {
    key: { k: 'text' },
    columns: { b: 'boolean', i: 'integer', f: 'float', t: 'timestamp', o: 'blob', l: 'text-list', m: 'integer-list', j: 'json' },
  };
  const right = { k: 'ä', b: true, i: 1, f: 0.5, t: -1, o: Uint8Array.of(255), l: ['x', 'ü'], m: [1, 2n], j: { a: [1] } };
  const check = (change) => {
    const mapper = configured({ describe: { tables: { t: types } }, onEvent: (key) => key.row('t', { ...right, ...change }) });
    return mapper.fold(folding([{ name: 'x', events: [['1', undefined]] }]));
  };
  const whole = check({}).rows[0].columns.map(({ data }) => data);
  assert.deepEqual(whole.map(({ tag }) => tag), ['texts', 'booleans', 'integers', 'floats', 'timestamps', 'blobs', 'text-lists', 'integer-lists', 'json']);
  assert.deepEqual([whole[4].val[0], items(whole[6].val.items), [...whole[7].val.items], items(whole[8].val)], [-1n, ['x', 'ü'], [1n, 2n], ['{"a":[1]}']]);
  assert.deepEqual([...check({ l: null }).rows[0].columns[6].nulls], [0]);
  for (const [change, words] of [
    [{ k: null }, 'k is part of the primary key and cannot be null'],
    [{ k: 1 }, 'table t: k is a number, not a string'],
    [{ k: '\ud800' }, 'half of a surrogate pair'],
    [{ b: 1 }, 'b is a number, not a boolean'],
    [{ i: '1' }, 'i is a string, not an integer'],
    [{ i: 1.5 }, 'i is 1.5, not an integer'],
    [{ i: 2 ** 53 }, 'use a BigInt'],
    [{ i: 2n ** 63n }, 'does not fit into 64 bits'],
    [{ t: new Date(0) }, 't is an object (Date), not a time'],
    [{ t: NaN }, 't is NaN, not a time'],
    [{ o: 'x' }, 'o is a string, not a Uint8Array'],
    [{ l: 'x' }, 'l is a string, not an array'],
    [{ l: ['x', 1] }, 'l[1] is a number, not a string'],
    [{ j: { n: 1n } }, 'j cannot be represented in JSON'],
    [{ i: undefined }, 'the row has no i'],
    [{ x: 1 }, 'the row has x, which is not a column of the table'],
  ]) {
    const { rejections, rows } = check(change);
    assert.ok(rejections[0]?.reason.includes(words), `${words} in ${rejections[0]?.reason}`);
    assert.deepEqual(rows, []);
  }
});

test('changing an object after it was put does not change the state', () => {
  const mapper = configured({
    onEvent(key) {
      const value = key.value() ?? { seen: [] };
      value.seen.push(1);
      key.put(value);
      value.seen.push(2);
      assert.deepEqual(key.value(), { seen: value.seen.slice(0, -1) });
    },
  });
  const given = mapper.fold(folding([{ name: 'x', events: [['1', undefined], ['1', undefined]] }]));
  assert.deepEqual([given.rejections, items(given.values)], [[], ['{"seen":[1,1]}']]);
});

test('a mistake is refused by name', () => {
  const reasonOf = (onEvent) => configured({ onEvent }).fold(folding([{ name: 'x', events: [['1', undefined]] }])).rejections[0].reason;
  for (const [onEvent, words] of [
    [(key) => key.put(undefined), 'the value is undefined'],
    [(key) => key.put(1n), 'the value cannot be represented in JSON'],
    [(key) => key.put({ a: [new Set([1])] }), 'the value.a[0] is a Set, which JSON would write as something else: use an array, or [...set]'],
    [(key) => key.put(new Map()), 'the value is a Map'],
    [(key) => key.append({ b: Uint8Array.of(1) }), 'the item.b is a Uint8Array'],
    [(key) => key.put({ re: /x/ }), 'the value.re is a RegExp'],
    [(key) => key.put([NaN]), 'the value[0] is NaN, which JSON would write as null'],
    [(key) => key.put([1, undefined]), 'the value[1] is undefined'],
    [(key) => key.put({ f() {} }), 'the value.f is a function'],
    [(key) => { const a = {}; a.a = a; key.put(a); }, 'the value cannot be represented in JSON'],
    [(key) => key.row('j', { k: 'x', j: new Set() }), 'j is a Set'],
    [(key) => key.setTimer(1.5), "the timer's time is 1.5"],
    [(key) => key.row('c', {}), 'its tables are a, b, j'],
    [(key) => key.log('loud', 'x'), 'error, warn, info, debug'],
    [(key) => key.items(), 'only in onTimer'],
    [async () => {}, 'async'],
    [() => { throw 'a text'; }, 'a text'],
    [() => { throw { a: 1 }; }, 'not an Error: {"a":1}'],
    [(key, event, config) => { config.seen = 1; }, 'TypeError: '],
  ]) {
    assert.ok(reasonOf(onEvent).includes(words), `${words} in ${reasonOf(onEvent)}`);
  }
  assert.throws(() => plugin({ describe: {}, map: nothing, onEvent: nothing }), /onTimer is undefined/);
  assert.throws(() => configured({ describe: { tables: { t: { key: { k: 'string' } } } } }), /type of k is "string"/);
  assert.throws(() => configured({ configure: () => { throw new Error('no'); } }), { payload: 'no' });
});

test('running out of memory fails the whole call, since a fresh instance has more memory', () => {
  // The engine throws this text.
  const outOfMemory = () => { throw 'out of memory'; };
  const payload = 'out of memory (plugin.memory)';
  assert.throws(() => configured({ map: outOfMemory }).mapRecords(records(['x'])), { payload });
  assert.throws(() => configured({ onEvent: outOfMemory }).fold(folding([{ name: 'x', events: [['1', undefined]] }])), { payload });
});

test('migrateValue and migrateItem convert state of an older version', () => {
  const describe = { tables, stateVersion: 2 };
  const mapper = configured({ describe, value: text, item: bytes, migrateValue: (version, old) => `${version}${old.json().a}`, migrateItem: (_, old) => old.bytes });
  const given = mapper.migrate(1, { values: column(['{"a":7}', '{"a":"ö"}']), listItems: column(['i']) });
  assert.deepEqual([items(given.values), items(given.listItems)], [['17', '1ö'], ['i']]);
  const states = { values: column(['1']), listItems: column([]) };
  assert.throws(() => configured({ value: json() }).migrate(3, states), { payload: 'cannot migrate a value of state version 3: the plugin does not define migrateValue' });
});

test('the description says how state is encoded, and migrate from its own version only reads it', () => {
  const schema = (definition) => JSON.parse(configured(definition).describe().configSchema);
  assert.deepEqual(schema({ item: bytes })['x-keyfold-state'], { value: 'json', item: 'bytes' });
  assert.deepEqual(schema({ value: { ...text, encoding: undefined }, item: text })['x-keyfold-state'], { item: 'text' });
  const mapper = configured({ migrateValue: () => assert.fail('it is called for older versions only') });
  const states = { values: column(['{"a":7}']), listItems: column(['1']) };
  assert.deepEqual(mapper.migrate(1, states), states);
  const other = { values: column(['"ann']), listItems: column([]) };
  assert.throws(() => mapper.migrate(1, other), ({ payload }) => payload.startsWith('the value cannot be read: '));
});
