"""From a library of described members to the ensembles worth serving, `ensembled select`.

Members predict labelled rows once; sets of them, their weights and cascades are searched for the
best quality at each cost. What a set costs is what the best allocation of its members gives, by
`allocator.search`.
"""
