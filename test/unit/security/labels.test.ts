/** Which label a host uses, by what a made-up kernel answers. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isolationHere, requireLayers } from '../../../host/security/isolation.ts';
import { chooseLabel, type KernelFiles } from '../../../host/security/labels.ts';

const seLinuxLabel = 'system_u:system_r:container_t:s0';

function kernel(files: Record<string, string>, accepted: string[] = []): KernelFiles {
  return {
    read: (path) => files[path],
    accepts: (path, text) => path === '/sys/fs/selinux/context' && accepted.includes(text),
  };
}

describe('AppArmor', () => {
  const profiles = '/sys/kernel/security/apparmor/profiles';
  const active = {
    '/sys/module/apparmor/parameters/enabled': 'Y\n',
    '/proc/self/attr/apparmor/current': 'unconfined\n',
    [profiles]: 'other (enforce)\nhatch-function (enforce)\n',
  };

  test('is used when the profile is loaded', () => {
    const { apparmor, label } = chooseLabel({}, kernel(active));
    assert.equal(apparmor, 'enforced');
    assert.deepEqual(label, { module: 'apparmor', name: 'hatch-function' });
  });

  const without: [what: string, files: Record<string, string>, state: RegExp][] = [
    ['is not active', {}, /^unavailable: not active in this kernel$/],
    ['has no profile of ours', { ...active, [profiles]: 'x (enforce)\n' }, /apparmor_parser/],
    ['only complains', { ...active, [profiles]: 'hatch-function (complain)\n' }, /\(complain\)$/],
    [
      'confines the host',
      { ...active, '/proc/self/attr/apparmor/current': 'docker-default (enforce)\n' },
      /the host itself is confined, by docker-default/,
    ],
  ];
  for (const [what, files, state] of without)
    test(`that ${what} is unavailable`, () => {
      const { apparmor, label } = chooseLabel({}, kernel(files));
      assert.match(apparmor, state);
      assert.equal(label, undefined);
    });

  test('without securityfs nobody knows', () => {
    const { [profiles]: _, ...rest } = active;
    assert.match(chooseLabel({}, kernel(rest)).apparmor, /securityfs/);
  });
});

describe('SELinux', () => {
  const enforcing = { '/sys/fs/selinux/enforce': '1' };

  test('is used when it is enforcing and knows the label', () => {
    const { selinux, label } = chooseLabel({ seLinuxLabel }, kernel(enforcing, [seLinuxLabel]));
    assert.equal(selinux, 'enforced');
    assert.deepEqual(label, { module: 'selinux', name: seLinuxLabel });
  });

  test('is unavailable, and says why, in all other cases', () => {
    const state = (files: Record<string, string>, wanted?: string) => {
      const { selinux, label } = chooseLabel({ seLinuxLabel: wanted }, kernel(files));
      assert.equal(label, undefined);
      return selinux;
    };
    assert.match(state({}, seLinuxLabel), /not active/);
    assert.match(state({ '/sys/fs/selinux/enforce': '0' }, seLinuxLabel), /permissive/);
    assert.match(state(enforcing), /no label is configured/);
    assert.match(state(enforcing, seLinuxLabel), /the policy has no label/);
  });
});

test('a host that requires a label does not start without it', () => {
  const isolation = isolationHere(chooseLabel({}, kernel({})));
  assert.throws(() => requireLayers(isolation, ['apparmor']), { code: 'host.unsupported' });
  assert.throws(() => requireLayers(isolation, ['selinux']), { code: 'host.unsupported' });
});
