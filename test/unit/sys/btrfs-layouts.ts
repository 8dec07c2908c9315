/** Structures of btrfs in C: their names, their sizes, where their fields are. */
import {
  fileSystemArgumentsLayout,
  lookupArgumentsLayout,
  quotaArgumentsLayout,
  quotaGroupArgumentsLayout,
  quotaInfoItemLayout,
  quotaLimitArgumentsLayout,
  quotaLimitItemLayout,
  searchArgumentsLayout,
  volumeArgumentsLayout,
} from '../../../host/sys/btrfs.ts';

export const btrfsLayouts: readonly [name: string, size: number, fields: Record<string, number>][] =
  [
    [
      'struct btrfs_ioctl_vol_args_v2',
      volumeArgumentsLayout.size,
      {
        fd: volumeArgumentsLayout.fd,
        name: volumeArgumentsLayout.name,
      },
    ],
    [
      'struct btrfs_ioctl_fs_info_args',
      fileSystemArgumentsLayout.size,
      {
        fsid: fileSystemArgumentsLayout.fsid,
      },
    ],
    [
      'struct btrfs_ioctl_ino_lookup_args',
      lookupArgumentsLayout.size,
      {
        treeid: lookupArgumentsLayout.treeId,
        objectid: lookupArgumentsLayout.objectId,
      },
    ],
    [
      'struct btrfs_ioctl_search_args',
      searchArgumentsLayout.size,
      {
        'key.tree_id': searchArgumentsLayout.treeId,
        'key.min_offset': searchArgumentsLayout.offsetMin,
        'key.max_offset': searchArgumentsLayout.offsetMax,
        'key.max_transid': searchArgumentsLayout.transactionMax,
        'key.min_type': searchArgumentsLayout.typeMin,
        'key.max_type': searchArgumentsLayout.typeMax,
        'key.nr_items': searchArgumentsLayout.count,
        buf: searchArgumentsLayout.found,
      },
    ],
    ['struct btrfs_ioctl_search_header', searchArgumentsLayout.headerBytes, {}],
    [
      'struct btrfs_qgroup_info_item',
      quotaInfoItemLayout.size,
      {
        rfer: quotaInfoItemLayout.referenced,
      },
    ],
    [
      'struct btrfs_qgroup_limit_item',
      quotaLimitItemLayout.size,
      {
        flags: quotaLimitItemLayout.flags,
        max_rfer: quotaLimitItemLayout.referencedMax,
      },
    ],
    [
      'struct btrfs_ioctl_quota_ctl_args',
      quotaArgumentsLayout.size,
      {
        cmd: quotaArgumentsLayout.command,
      },
    ],
    [
      'struct btrfs_ioctl_qgroup_create_args',
      quotaGroupArgumentsLayout.size,
      {
        create: quotaGroupArgumentsLayout.create,
        qgroupid: quotaGroupArgumentsLayout.id,
      },
    ],
    [
      'struct btrfs_ioctl_qgroup_limit_args',
      quotaLimitArgumentsLayout.size,
      {
        'lim.flags': quotaLimitArgumentsLayout.flags,
        'lim.max_rfer': quotaLimitArgumentsLayout.referencedMax,
        'lim.max_excl': quotaLimitArgumentsLayout.exclusiveMax,
      },
    ],
  ];
