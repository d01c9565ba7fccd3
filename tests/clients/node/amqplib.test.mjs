// The broker through amqplib, as Node's users know it.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { after, before, beforeEach, describe, test } from 'node:test';
import { Inbox, channelOf, cleanUp, closes, connect, name, within } from './broker.mjs';

const numbers = (count) => Array.from({ length: count }, (_, index) => String(index));
let connection, channel, queue;

before(async () => {
  connection = await connect();
});
beforeEach(async () => {
  channel = await channelOf(connection, 'createConfirmChannel');
  queue = (await channel.assertQueue(name())).queue;
});
after(cleanUp);

async function publish(exchange, key, body = 'x', options = {}) {
  channel.publish(exchange, key, Buffer.from(body), options);
  await channel.waitForConfirms();
}

async function fill(count = 10) {
  for (const number of numbers(count)) channel.sendToQueue(queue, Buffer.from(number));
  await channel.waitForConfirms();
}

async function ready(of = queue) {
  return (await channel.checkQueue(of)).messageCount;
}

async function taken(of = queue) {
  const bodies = [];
  for (let message; (message = await channel.get(of, { noAck: true })); ) bodies.push(message.content.toString());
  return bodies;
}

async function exchange(kind, options) {
  return (await channel.assertExchange(name(), kind, options)).exchange;
}

describe('routing', () => {
  const cases = [
    ['direct', 'red', 'red', true],
    ['direct', 'red', 'blue', false],
    ['fanout', 'red', 'blue', true],
    ['topic', 'a.*.c', 'a.b.c', true],
    ['topic', 'a.#', 'a', true],
    ['topic', 'a.*', 'a', false],
  ];
  for (const [kind, pattern, key, routed] of cases) {
    test(`${kind} ${pattern} ← ${key}`, async () => {
      const source = await exchange(kind);
      await channel.bindQueue(queue, source, pattern);
      await publish(source, key);
      assert.deepEqual(await taken(), routed ? ['x'] : []);
    });
  }

  for (const [match, routed] of [['all', false], ['any', true]]) {
    test(`headers ${match}`, async () => {
      const source = await exchange('headers');
      await channel.bindQueue(queue, source, '', { 'x-match': match, a: 1, b: 'two' });
      await publish(source, '', 'x', { headers: { a: 1, b: 'three' } });
      assert.deepEqual(await taken(), routed ? ['x'] : []);
    });
  }

  test('exchange to exchange, alternate exchange, unbind', async () => {
    const [spare, target] = [await exchange('fanout'), await exchange('fanout')];
    const source = await exchange('topic', { alternateExchange: spare });
    const other = (await channel.assertQueue(name())).queue;
    await channel.bindExchange(target, source, 'a.#');
    await channel.bindQueue(queue, target, '');
    await channel.bindQueue(other, spare, '');
    await publish(source, 'a.b', 'through');
    await publish(source, 'b.a', 'aside');
    await channel.unbindExchange(target, source, 'a.#');
    await publish(source, 'a.b', 'unbound');
    assert.deepEqual([await taken(), await taken(other)], [['through'], ['aside', 'unbound']]);
  });
});

describe('publishing', () => {
  test('a thousand confirms in flight', async () => {
    const durable = (await channel.assertQueue(name(), { durable: true })).queue;
    let confirmed = 0;
    const each = (resolve, reject) => (error) => (error ? reject(error) : resolve((confirmed += 1)));
    await Promise.all(
      numbers(1000).map(
        (n) => new Promise((ok, no) => channel.sendToQueue(durable, Buffer.from(n), { persistent: true }, each(ok, no))),
      ),
    );
    assert.deepEqual([confirmed, await ready(durable)], [1000, 1000]);
    assert.deepEqual((await (await Inbox.of(channel, durable, { noAck: true })).wait(1000)).bodies, numbers(1000));
  });

  test('mandatory: returned, then confirmed', async () => {
    const order = [];
    channel.on('return', (message) => order.push([message.fields.replyCode, message.content.toString()]));
    channel.publish('', 'nowhere-to-go', Buffer.from('back'), { mandatory: true }, () => order.push('confirmed'));
    await channel.waitForConfirms();
    assert.deepEqual(order, [[312, 'back'], 'confirmed']);
  });

  for (const size of [0, 131064, 2 ** 20, 10 * 2 ** 20]) {
    test(`a body of ${size} bytes`, async () => {
      const body = randomBytes(size);
      await publish('', queue, body);
      assert.ok((await channel.get(queue, { noAck: true })).content.equals(body));
    });
  }

  test('properties and headers come back', async () => {
    const sent = {
      contentType: 'a/b', contentEncoding: 'e', deliveryMode: 2, priority: 5, correlationId: 'cü', replyTo: 'r',
      expiration: '60000', messageId: 'm', timestamp: 1700000000, type: 't', userId: 'guest', appId: 'a',
    };
    const headers = { text: 'Ü', number: 2 ** 40, negative: -1, float: 1.5, list: [1, 'two'], table: { k: true }, none: null };
    await publish('', queue, 'x', { ...sent, headers });
    const { properties } = await channel.get(queue, { noAck: true });
    for (const [key, value] of Object.entries(sent)) assert.equal(properties[key], value, key);
    assert.deepEqual({ ...properties.headers }, headers);
  });

  test('to a missing exchange: the channel closes later, another goes on', async () => {
    const other = await channelOf(connection);
    await closes(other, 404, "no exchange 'never-there' in vhost '/'", (one) => {
      one.publish('never-there', 'key', Buffer.from('lost'));
    });
    await publish('', queue);
    assert.deepEqual(await taken(), ['x']);
  });
});

describe('consuming', () => {
  test('prefetch bounds what is outstanding', async () => {
    await fill();
    await channel.prefetch(3);
    const inbox = await (await Inbox.of(channel, queue)).wait(3);
    for (let settled = 1; settled <= 7; settled += 1) {
      assert.equal(await ready(), 8 - settled);
      channel.ack(inbox.messages[settled - 1]);
      await inbox.wait(3 + settled);
    }
    assert.deepEqual(inbox.bodies, numbers(10));
  });

  const settlements = {
    nack: (consumer, messages) => consumer.nack(messages.at(-1), true, true),
    reject: (consumer, messages) => [...messages].reverse().forEach((message) => consumer.reject(message, true)),
    recover: (consumer) => consumer.recover(),
    close: () => {},
  };
  for (const [kind, settle] of Object.entries(settlements)) {
    test(`${kind}: first in line again, and flagged`, async () => {
      await fill();
      const consumer = await channelOf(connection);
      await consumer.prefetch(3);
      const inbox = await (await Inbox.of(consumer, queue)).wait(3);
      await consumer.cancel(inbox.tag);
      await settle(consumer, inbox.messages);
      await consumer.close();
      const again = await (await Inbox.of(channel, queue)).wait(10);
      assert.deepEqual(again.bodies, numbers(10));
      assert.deepEqual(again.redelivered, numbers(10).map((n) => Number(n) < 3));
    });
  }

  test('ack of all, reject without requeue', async () => {
    await fill(4);
    const consumer = await channelOf(connection);
    const inbox = await (await Inbox.of(consumer, queue)).wait(4);
    consumer.reject(inbox.messages[0], false);
    consumer.ack(inbox.messages[2], true);
    consumer.ackAll();
    await consumer.close();
    assert.equal(await ready(), 0);
  });

  test('get', async () => {
    await fill(2);
    const first = await channel.get(queue);
    assert.deepEqual([first.content.toString(), first.fields.redelivered, first.fields.messageCount], ['0', false, 1]);
    channel.nack(first);
    assert.equal((await channel.get(queue, { noAck: true })).fields.redelivered, true);
    assert.deepEqual([await taken(), await channel.get(queue)], [['1'], false]);
  });

  test('deleting the queue cancels its consumers', async () => {
    const inbox = await Inbox.of(channel, queue);
    await (await channelOf(connection)).deleteQueue(queue);
    assert.deepEqual((await inbox.wait(1)).messages, [null]);
  });

  test('higher priority first while it can take', async () => {
    const inboxes = [];
    for (const priority of [0, 5]) {
      const consumer = await channelOf(connection);
      await consumer.prefetch(1);
      inboxes.push(await Inbox.of(consumer, queue, { priority }));
    }
    const [low, high] = inboxes;
    await publish('', queue, 'first');
    await high.wait(1);
    await publish('', queue, 'second');
    await low.wait(1);
    assert.deepEqual([high.bodies, low.bodies], [['first'], ['second']]);
  });

  test('request and reply, through a queue and directly', async () => {
    await channel.consume(queue, (request) => {
      const { replyTo, correlationId } = request.properties;
      channel.sendToQueue(replyTo, Buffer.from(request.content.toString().toUpperCase()), { correlationId });
      channel.ack(request);
    });
    const client = await channelOf(await connect());
    const own = (await client.assertQueue('', { exclusive: true })).queue;
    assert.match(own, /^amq\.gen-/);
    for (const replyTo of [own, 'amq.rabbitmq.reply-to']) {
      const inbox = await Inbox.of(client, replyTo, { noAck: true });
      for (const n of numbers(5)) client.sendToQueue(queue, Buffer.from(`a${n}`), { replyTo, correlationId: n });
      await inbox.wait(5);
      const answers = inbox.messages.map((reply) => [reply.properties.correlationId, reply.content.toString()]);
      assert.deepEqual(answers, numbers(5).map((n) => [n, `A${n}`]));
    }
  });
});

describe('queues and refusals', () => {
  test('purge, delete if empty, delete if unused', async () => {
    await fill(4);
    await closes(await channelOf(connection), 406, 'not empty', (one) => one.deleteQueue(queue, { ifEmpty: true }));
    assert.equal((await channel.purgeQueue(queue)).messageCount, 4);
    await Inbox.of(channel, queue);
    await closes(await channelOf(connection), 406, 'in use', (one) => one.deleteQueue(queue, { ifUnused: true }));
    assert.equal((await channel.deleteQueue(queue)).messageCount, 0);
  });

  test('auto-delete goes with its last consumer', async () => {
    const vanishing = (await channel.assertQueue(name(), { autoDelete: true })).queue;
    await channel.cancel((await Inbox.of(channel, vanishing)).tag);
    await closes(await channelOf(connection), 404, `no queue '${vanishing}'`, (one) => one.checkQueue(vanishing));
  });

  test('403, 404, 405, 406; another channel goes on', async () => {
    const owner = await channelOf(await connect());
    const locked = (await owner.assertQueue(name(), { exclusive: true })).queue;
    const refusals = [
      [403, 'ACCESS_REFUSED', (one) => one.assertQueue('amq.mine')],
      [404, "no queue 'never-there' in vhost '/'", (one) => one.checkQueue('never-there')],
      [404, "no exchange 'never-there' in vhost '/'", (one) => one.bindQueue(queue, 'never-there', '')],
      [405, `locked queue '${locked}' in vhost '/'`, (one) => one.checkQueue(locked)],
      [406, `inequivalent arg 'durable' for queue '${queue}'`, (one) => one.assertQueue(queue, { durable: false })],
      [406, 'unknown delivery tag 9', (one) => one.ack({ fields: { deliveryTag: 9 } })],
    ];
    for (const [code, text, act] of refusals) await closes(await channelOf(connection), code, text, act);
    await publish('', queue);
  });

  test('a limited user', async () => {
    const limited = await connect({ user: 'limited', password: 'limited' });
    const own = name('limited');
    await (await channelOf(limited)).assertQueue(own);
    await closes(await channelOf(limited), 403, `access to queue '${queue}'`, (one) => one.assertQueue(queue));
    await closes(await channelOf(limited), 403, `access to queue '${queue}'`, (one) => one.get(queue));
    await closes(await channelOf(limited), 403, "access to exchange 'amq.fanout'", (one) => {
      one.publish('amq.fanout', '', Buffer.from('x'));
    });
  });
});

describe('connections', () => {
  test('a wrong password and an unknown vhost', async () => {
    await assert.rejects(connect({ user: 'guest', password: 'wrong' }), /403|ACCESS[_-]REFUSED/);
    // amqplib says only that it was closed.
    await assert.rejects(connect({ vhost: 'nowhere' }), /ConnectionClose|530/);
  });

  test('heartbeats, small frames and many channels', async () => {
    const one = await connect({ query: 'heartbeat=1&frameMax=8192&channelMax=100' });
    const channels = await Promise.all(numbers(100).map(() => channelOf(one)));
    const queues = await Promise.all(channels.map((each) => each.assertQueue('', { exclusive: true })));
    assert.equal(new Set(queues.map((each) => each.queue)).size, 100);
    const body = randomBytes(100_000);
    const inbox = await Inbox.of(channels[1], queues[0].queue, { noAck: true });
    channels[2].sendToQueue(queues[0].queue, body);
    assert.ok((await inbox.wait(1)).messages[0].content.equals(body));
  });

  test('closing is answered', async () => {
    const one = await connect();
    const closed = once(one, 'close');
    await one.close();
    await within(closed, 'close');
  });
});
