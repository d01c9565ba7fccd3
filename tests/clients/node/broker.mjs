// Connections, names and waiting for the tests of one file.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import amqp from 'amqplib';

export const SECONDS = 10;
const target = process.env.AMQP_URL;
if (!target) throw new Error('set AMQP_URL to the broker under test (tests/clients/run does)');

const opened = [];
const made = [];

export function urlWith({ user, password, vhost, query } = {}) {
  const url = new URL(target);
  if (user) [url.username, url.password] = [user, password];
  if (vhost) url.pathname = `/${encodeURIComponent(vhost)}`;
  if (query) url.search = query;
  return url.href;
}

export async function connect(options) {
  const connection = await amqp.connect(urlWith(options));
  connection.on('error', () => {}); // the tests look at what is rejected
  opened.push(connection);
  return connection;
}

export async function channelOf(connection, kind = 'createChannel') {
  const channel = await connection[kind]();
  channel.failure = once(channel, 'error').then(([error]) => error);
  return channel;
}

export function name(prefix = 'node') {
  made.push(`${prefix}-${process.pid}-${made.length}`);
  return made.at(-1);
}

/** Deletes what was named and closes what was opened. */
export async function cleanUp() {
  const connection = await amqp.connect(target);
  for (const one of made) {
    const channel = await connection.createChannel();
    channel.on('error', () => {}); // an exclusive queue goes with its connection
    await channel.deleteExchange(one).then(() => channel.deleteQueue(one)).then(() => channel.close()).catch(() => {});
  }
  await connection.close();
  await Promise.all(opened.map((one) => one.close().catch(() => {})));
}

export function within(promise, what, seconds = SECONDS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A consumer that keeps what it gets, in order. A cancel by the broker is `null`. */
export class Inbox {
  messages = [];
  #wanted = [];

  static async of(channel, queue, options) {
    const inbox = new Inbox();
    inbox.tag = (await channel.consume(queue, (message) => inbox.#receive(message), options)).consumerTag;
    return inbox;
  }

  #receive(message) {
    this.messages.push(message);
    this.#wanted = this.#wanted.filter(({ count, done }) => this.messages.length < count || done());
  }

  /** Until so many messages in all have come. */
  async wait(count) {
    if (this.messages.length < count) {
      await within(new Promise((done) => this.#wanted.push({ count, done })), `message ${count}`);
    }
    assert.equal(this.messages.length, count);
    return this;
  }

  get bodies() {
    return this.messages.map((message) => message.content.toString());
  }

  get redelivered() {
    return this.messages.map((message) => message.fields.redelivered);
  }
}

/** The channel is closed with this code and text. */
export async function closes(channel, code, text, act) {
  const answer = Promise.resolve(act(channel)).catch(() => {}); // rejected with the same close
  const error = await within(channel.failure, `close ${code}`);
  await answer;
  assert.equal(error.code, code, error.message);
  assert.ok(error.message.includes(text), error.message);
}
