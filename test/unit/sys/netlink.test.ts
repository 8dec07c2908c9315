/** Against the kernel, in a network namespace of this process. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { createSet, destroySet, setNames } from '../../../host/sys/ip-set.ts';
import { Netlink, NetlinkError } from '../../../host/sys/netlink.ts';
import { addAddress, addBridge, deleteLink, findLink } from '../../../host/sys/rtnetlink.ts';
import { leaveMachineNetwork } from '../../support/test-network.ts';

leaveMachineNetwork();
const mac = Buffer.from('024800000001', 'hex');

test('links are added, found and deleted', () => {
  const netlink = new Netlink('route');
  try {
    assert.equal(findLink(netlink, 'hatch0'), undefined);
    addBridge(netlink, { name: 'hatch0', mac });
    const link = findLink(netlink, 'hatch0');
    assert.ok(link !== undefined);
    addAddress(netlink, {
      link: link.index,
      address: Buffer.from([10, 9, 8, 7]),
      prefixLength: 24,
    });
    const shown = execFileSync('ip', ['addr', 'show', 'hatch0'], { encoding: 'utf8' });
    assert.match(shown, /02:48:00:00:00:01/);
    assert.match(shown, /inet 10\.9\.8\.7\/24/);
    deleteLink(netlink, link);
    assert.equal(findLink(netlink, 'hatch0'), undefined);
  } finally {
    netlink.close();
  }
});

test('sets of addresses are listed by name, whatever their family', () => {
  const netlink = new Netlink('netfilter');
  try {
    assert.deepEqual(setNames(netlink), []);
    createSet(netlink, { name: 'hatch-a', family: 4 });
    createSet(netlink, { name: 'hatch-b', family: 6 });
    assert.deepEqual(setNames(netlink).toSorted(), ['hatch-a', 'hatch-b']);
    for (const name of setNames(netlink)) destroySet(netlink, name);
    assert.deepEqual(setNames(netlink), []);
  } finally {
    netlink.close();
  }
});

test('what the kernel refuses is an error that says what was being done, and why', () => {
  const netlink = new Netlink('route');
  try {
    addBridge(netlink, { name: 'hatch1', mac });
    assert.throws(
      () => addBridge(netlink, { name: 'hatch1', mac }),
      (error) =>
        error instanceof NetlinkError &&
        error.code === 'EEXIST' &&
        error.message.startsWith('Cannot add bridge "hatch1": EEXIST'),
    );
    assert.throws(
      () => deleteLink(netlink, { name: 'gone', index: 4711 }),
      /^NetlinkError: Cannot delete link "gone": ENODEV/,
    );
    // The socket goes on.
    assert.ok(findLink(netlink, 'hatch1') !== undefined);
  } finally {
    netlink.close();
  }
});
