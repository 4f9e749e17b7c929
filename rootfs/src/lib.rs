//! OCI layouts, digests, unpacking, overlay plans, runtime bundles and stacks.
