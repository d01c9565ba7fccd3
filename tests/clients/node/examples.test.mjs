// The examples that amqplib ships, as they are, each a process: the tutorials and direct reply-to.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, afterEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import amqp from 'amqplib';
import { urlWith, within } from './broker.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const examples = join(dirname(createRequire(import.meta.url).resolve('amqplib')), 'examples');
const running = [];

class Example {
  lines = [];

  constructor(file, ...args) {
    const command = ['--require', join(here, 'port.cjs'), join(examples, file), ...args];
    this.process = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.ended = once(this.process, 'exit');
    this.output = createInterface({ input: this.process.stdout });
    this.output.on('line', (line) => this.lines.push(line.trim()));
    running.push(this);
  }

  /** The first line with this text. */
  async says(text) {
    const found = () => this.lines.find((line) => line.includes(text));
    const search = async () => {
      while (!found()) await once(this.output, 'line');
    };
    await within(search(), `"${text}" from ${this.process.spawnargs.at(-1)}, which said ${this.lines}`);
    return found();
  }

  /** Runs to its end; what it said. */
  async end() {
    const [code] = await within(this.ended, 'end of the example');
    assert.equal(code, 0);
    return this.lines;
  }

  /** Ends by the signal for which it closes its connection. */
  async interrupt() {
    this.process.kill('SIGINT');
    return this.end();
  }
}

afterEach(async () => {
  for (const example of running.splice(0)) {
    example.process.kill('SIGKILL');
    await example.ended;
  }
});

after(async () => {
  const connection = await amqp.connect(urlWith());
  const channel = await connection.createChannel();
  for (const queue of ['hello', 'task_queue', 'rpc_queue']) await channel.deleteQueue(queue);
  for (const exchange of ['logs', 'direct_logs', 'topic_logs']) await channel.deleteExchange(exchange);
  await connection.close();
});

for (const folder of ['tutorials', 'tutorials/callback_api']) {
  describe(folder, () => {
    const start = (file, ...args) => new Example(`${folder}/${file}.js`, ...args);

    test('1 hello world', async () => {
      const receiver = start('receive');
      await receiver.says('Waiting');
      await start('send').end();
      await receiver.says("[x] Received 'Hello World!'");
      await receiver.interrupt();
    });

    test('2 work queues', async () => {
      const workers = [start('worker'), start('worker')];
      for (const worker of workers) await worker.says('Waiting');
      for (const task of ['first', 'second']) await start('new_task', task).end();
      await Promise.all(workers.map((worker) => worker.says('[x] Done')));
      for (const worker of workers) await worker.interrupt();
      const taken = workers.map((worker) => worker.lines[1]).sort();
      assert.deepEqual(taken, ["[x] Received 'first'", "[x] Received 'second'"]);
    });

    test('3 publish and subscribe', async () => {
      const receivers = [start('receive_logs'), start('receive_logs')];
      for (const receiver of receivers) await receiver.says('Waiting');
      await start('emit_log', 'to all').end();
      for (const receiver of receivers) await receiver.says('to all');
      for (const receiver of receivers) await receiver.interrupt();
    });

    test('4 routing', async () => {
      const receiver = start('receive_logs_direct', 'warning', 'error');
      await receiver.says('Waiting');
      for (const severity of ['info', 'warning', 'error']) await start('emit_log_direct', severity, 'text').end();
      assert.match(await receiver.says('error'), /error:\s*'text'/);
      const lines = await receiver.interrupt();
      assert.equal(lines.filter((line) => line.includes('text')).length, 2);
    });

    test('5 topics', async () => {
      const receiver = start('receive_logs_topic', 'kern.*', '*.critical');
      await receiver.says('Waiting');
      for (const key of ['kern.info', 'mail.info', 'mail.critical']) await start('emit_log_topic', key, 'text').end();
      await receiver.says('mail.critical');
      const lines = await receiver.interrupt();
      assert.equal(lines.filter((line) => line.includes('text')).length, 2);
    });

    test('6 remote procedure call', async () => {
      const server = start('rpc_server');
      await server.says('Awaiting');
      assert.ok((await start('rpc_client', '30').end()).includes('[.] Got 832040'));
      await server.interrupt();
    });
  });
}

test('direct reply-to', async () => {
  const server = new Example('direct_reply_to_server.js');
  await server.says('To exit');
  assert.deepEqual(await new Example('direct_reply_to_client.js').end(), ['[.] pong']);
  await server.interrupt();
});

test('confirms', async () => {
  assert.deepEqual(await new Example('waitForConfirms.js').end(), ['All messages done']);
});
