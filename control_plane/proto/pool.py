"""The descriptor pool of every generated module below this package.

Foreign packages (`spiffe`, grpclib's own health and reflection, googleapis) register the same message names
in protobuf's default pool, and a pool refuses a second definition. A pool of our own lets both live in one
process. The price: the well-known types (Struct, BoolValue, Any, ...) are generated here as well, so a nested
field wants `control_plane.proto.google.protobuf.struct_pb2.Struct`, not the one of `google.protobuf`.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
