import assert from 'node:assert/strict';
import { closeSync, fstatSync } from 'node:fs';
import { once } from 'node:events';
import { test } from 'node:test';
import { Connection } from '../../../host/sys/connection.ts';
import { receiveMessage, sendMessage, socketPair } from '../../../host/sys/socket.ts';

test('messages with descriptors go beside what the stream sends', async () => {
  const [near, far] = socketPair('stream');
  const connection = new Connection(near);
  const [given, kept] = socketPair('stream');
  connection.send(Buffer.from('sent'), [given]);
  const message = receiveMessage(far);
  assert.equal(message?.bytes.toString(), 'sent');
  const [received = -1] = message?.fds ?? [];
  assert.equal(fstatSync(received).ino, fstatSync(given).ino);
  assert.equal(connection.writeNow(Buffer.from('written')), 7);
  assert.equal(receiveMessage(far)?.bytes.toString(), 'written');
  connection.socket.destroy();
  await once(connection.socket, 'close');
  for (const fd of [far, given, kept, received]) closeSync(fd);
});

test('once it is closed, whoever has its number now receives nothing', async () => {
  const [near, far] = socketPair('stream');
  const connection = new Connection(near);
  connection.socket.resume();
  closeSync(far);
  await once(connection.socket, 'close');
  const strangers = [socketPair('stream'), socketPair('stream')].flat();
  assert.ok(strangers.includes(near), 'the number was not given again');
  const bytes = Buffer.from('for another');
  assert.throws(() => connection.send(bytes), { code: 'EPIPE', syscall: 'sendmsg' });
  assert.throws(() => connection.changeOwner(0, 0), { code: 'EPIPE' });
  assert.equal(connection.writeNow(bytes), 0);
  for (const fd of strangers)
    assert.throws(() => receiveMessage(fd, { nonBlocking: true }), { code: 'EAGAIN' });
  for (const fd of strangers) closeSync(fd);
});

test('to one that does not receive nothing can be sent, no descriptor either', async () => {
  const [near, far] = socketPair('stream');
  const connection = new Connection(near, { readable: false });
  assert.throws(() => sendMessage(far, Buffer.from('x'), [far]), { code: 'EPIPE' });
  connection.send(Buffer.from('order'), [near]);
  const { bytes, fds } = receiveMessage(far) ?? assert.fail();
  assert.equal(bytes.toString(), 'order');
  for (const fd of fds) closeSync(fd);
  connection.socket.destroy();
  await once(connection.socket, 'close');
  assert.equal(receiveMessage(far), undefined);
  closeSync(far);
});
