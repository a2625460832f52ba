"""The checks of rust_sdk.rs with Couchbase's SDK for Python, whose core is another one (C++).

Arguments: the connection string, and with TLS the file with the authority's certificate.
"""

import sys
import unittest
from datetime import timedelta

import couchbase.subdocument as sub
from couchbase.auth import PasswordAuthenticator
from couchbase.cluster import Cluster
from couchbase.durability import Durability, ServerDurability
from couchbase.exceptions import (
    CASMismatchException,
    DocumentExistsException,
    DocumentNotFoundException,
    PathMismatchException,
    PathNotFoundException,
)
from couchbase.options import (
    ClusterOptions,
    IncrementOptions,
    DeltaValue,
    GetOptions,
    LookupInOptions,
    MutateInOptions,
    ReplaceOptions,
    SignedInt64,
    UpsertOptions,
)
from couchbase.subdocument import StoreSemantics

URL, *AUTHORITY = sys.argv[1:]


class PythonSdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        user = PasswordAuthenticator("Administrator", "password", *AUTHORITY)
        cls.cluster = Cluster(URL, ClusterOptions(user))
        cls.cluster.wait_until_ready(timedelta(seconds=30))
        cls.bucket = cls.cluster.bucket("default")
        cls.documents = cls.bucket.default_collection()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def test_whole_documents(self):
        documents = self.documents
        documents.upsert("a", {"n": 1})
        self.assertEqual(documents.get("a").content_as[dict], {"n": 1})
        with self.assertRaises(DocumentExistsException):
            documents.insert("a", {})
        with self.assertRaises(DocumentNotFoundException):
            documents.replace("none", {})
        cas = documents.replace("a", {"n": 2}).cas
        documents.replace("a", {"n": 3}, ReplaceOptions(cas=cas))
        with self.assertRaises(CASMismatchException):
            documents.replace("a", {"n": 4}, ReplaceOptions(cas=cas))
        self.assertTrue(documents.exists("a").exists)
        documents.remove("a")
        self.assertFalse(documents.exists("a").exists)
        with self.assertRaises(DocumentNotFoundException):
            documents.remove("a")

    def test_every_node_is_used(self):
        for number in range(40):
            self.documents.upsert(f"k{number}", number)
        for number in range(40):
            self.assertEqual(self.documents.get(f"k{number}").content_as[int], number)

    def test_counters(self):
        def count(delta):
            options = IncrementOptions(initial=SignedInt64(10), delta=DeltaValue(delta))
            return self.documents.binary().increment("counter", options).content

        self.assertEqual([count(3), count(3)], [10, 13])

    def test_parts_of_documents(self):
        documents = self.documents
        change = [
            sub.upsert("_mark.of", 7, xattr=True, create_parents=True),
            sub.upsert("a.b", 1, create_parents=True),
            sub.increment("count", 5),
            sub.array_append("list", 2, 3, create_parents=True),
            sub.array_prepend("list", 1),
        ]
        with self.assertRaises(DocumentNotFoundException):
            documents.mutate_in("d", change)
        documents.mutate_in("d", change, MutateInOptions(store_semantics=StoreSemantics.UPSERT))
        self.assertEqual(documents.get("d").content_as[dict], {"a": {"b": 1}, "count": 5, "list": [1, 2, 3]})
        with self.assertRaises(PathNotFoundException):
            documents.mutate_in("d", [sub.upsert("a.c", 1), sub.replace("no.such", 1)])
        with self.assertRaises(PathMismatchException):
            documents.mutate_in("d", [sub.array_append("count", 1)])
        with self.assertRaises(CASMismatchException):
            documents.mutate_in("d", [sub.upsert("x", 1)], MutateInOptions(cas=1))
        found = documents.lookup_in("d", [sub.get("_mark.of", xattr=True), sub.exists("a.c"), sub.count("list")])
        self.assertEqual(found.content_as[int](0), 7)
        self.assertFalse(found.exists(1))
        self.assertEqual(found.content_as[int](2), 3)

        # A replaced body keeps the attributes, and a CAS value guards both.
        replace = [sub.upsert("_mark.of", 8, xattr=True), sub.replace("", {"new": True})]
        with self.assertRaises(CASMismatchException):
            documents.mutate_in("d", replace, MutateInOptions(cas=1))
        documents.mutate_in("d", replace, MutateInOptions(cas=documents.get("d").cas))
        self.assertEqual(documents.get("d").content_as[dict], {"new": True})
        # What a system attribute says outlives the document.
        documents.remove("d")
        mark = [sub.get("_mark.of", xattr=True)]
        with self.assertRaises(DocumentNotFoundException):
            documents.lookup_in("d", mark)
        found = documents.lookup_in("d", mark, LookupInOptions(access_deleted=True))
        self.assertEqual(found.content_as[int](0), 8)

    def test_expiry_and_durability(self):
        documents = self.documents
        documents.upsert("e", 1, UpsertOptions(expiry=timedelta(seconds=600)))
        expiry = documents.get("e", GetOptions(with_expiry=True)).expiryTime
        self.assertIsNotNone(expiry)
        documents.upsert("e", 2, UpsertOptions(preserve_expiry=True))
        self.assertEqual(documents.get("e", GetOptions(with_expiry=True)).expiryTime, expiry)
        documents.touch("e", timedelta(seconds=6000))
        self.assertGreater(documents.get("e", GetOptions(with_expiry=True)).expiryTime, expiry)
        for level in (Durability.MAJORITY, Durability.MAJORITY_AND_PERSIST_TO_ACTIVE, Durability.PERSIST_TO_MAJORITY):
            documents.upsert("d2", 1, UpsertOptions(durability=ServerDurability(level)))

    def test_collections(self):
        manager = self.bucket.collections()
        manager.create_scope("s")
        manager.create_collection("s", "c")
        self.assertEqual([s.name for s in manager.get_all_scopes()], ["_default", "s"])
        self.bucket.scope("s").collection("c").upsert("x", {"a": 1})
        with self.assertRaises(DocumentNotFoundException):
            self.documents.get("x")

    def test_buckets(self):
        self.documents.upsert("shared", {"in": "default"})
        other = self.cluster.bucket("other").default_collection()
        with self.assertRaises(DocumentNotFoundException):
            other.get("shared")
        other.upsert("shared", {"in": "other"})
        self.assertEqual(other.get("shared").content_as[dict], {"in": "other"})
        self.assertEqual(self.documents.get("shared").content_as[dict], {"in": "default"})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
